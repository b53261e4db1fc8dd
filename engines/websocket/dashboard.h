/* The files of the dashboard as bytes: embed.cmake makes them from dashboard/ at build time. */
#ifndef KEEL_WEBSOCKET_DASHBOARD_H
#define KEEL_WEBSOCKET_DASHBOARD_H

#include <stddef.h>

/* X(name, path below /dashboard, content type) */
#define DASHBOARD_FILES(X)                                            \
    X(index_html, "", "text/html; charset=utf-8")                     \
    X(icon_svg, "/icon.svg", "image/svg+xml")                         \
    X(style_css, "/style.css", "text/css; charset=utf-8")             \
    X(exact_js, "/exact.js", "text/javascript; charset=utf-8")        \
    X(link_js, "/link.js", "text/javascript; charset=utf-8")          \
    X(chart_js, "/chart.js", "text/javascript; charset=utf-8")        \
    X(chain_js, "/chain.js", "text/javascript; charset=utf-8")        \
    X(app_js, "/app.js", "text/javascript; charset=utf-8")

#define DASHBOARD_DECL(name, path, type)          \
    extern const unsigned char dashboard_##name[]; \
    extern const size_t dashboard_##name##_len;
DASHBOARD_FILES(DASHBOARD_DECL)

#endif
