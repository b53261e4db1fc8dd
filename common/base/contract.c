/* Tables of the records that engines share, and the list of topics they are published on. */
#include "keel/contract.h"

#include <string.h>

KEEL_RECORD_TABLE(keel_quote, KEEL_QUOTE);
KEEL_RECORD_TABLE(keel_trade, KEEL_TRADE_REC);
KEEL_RECORD_TABLE(keel_book, KEEL_BOOK_REC);
KEEL_RECORD_TABLE(keel_bar, KEEL_BAR);
KEEL_RECORD_TABLE(keel_feed, KEEL_FEED_REC);
KEEL_RECORD_TABLE(keel_vector, KEEL_VECTOR);
KEEL_RECORD_TABLE(keel_signal, KEEL_SIGNAL);
KEEL_RECORD_TABLE(keel_fee, KEEL_FEE);
KEEL_RECORD_TABLE(keel_order, KEEL_ORDER);
KEEL_RECORD_TABLE(keel_fill, KEEL_FILL);
KEEL_RECORD_TABLE(keel_breach, KEEL_BREACH);
KEEL_RECORD_TABLE(keel_trading_state, KEEL_TRADING_STATE);
KEEL_RECORD_TABLE(keel_var, KEEL_VAR);
KEEL_RECORD_TABLE(keel_position, KEEL_POSITION);
KEEL_RECORD_TABLE(keel_account, KEEL_ACCOUNT);
KEEL_RECORD_TABLE(keel_adjustment, KEEL_ADJUSTMENT);
KEEL_RECORD_TABLE(keel_prediction, KEEL_PREDICTION);
KEEL_RECORD_TABLE(keel_anomaly, KEEL_ANOMALY);
KEEL_RECORD_TABLE(keel_exposures, KEEL_EXPOSURES);
KEEL_RECORD_TABLE(keel_analytics, KEEL_ANALYTICS);
KEEL_RECORD_TABLE(keel_breaker_event_rec, KEEL_BREAKER_REC);

#define MEMORY false
#define DURABLE true

static const struct keel_topic topics[] = {
    {"marketdata.quote", &keel_quote_fields, MEMORY},
    {"marketdata.trade", &keel_trade_fields, MEMORY},
    {"marketdata.book", &keel_book_fields, MEMORY},
    {"marketdata.priority.bar", &keel_bar_fields, MEMORY},
    {"marketdata.critical.feed", &keel_feed_fields, MEMORY},
    {"features.priority.vector", &keel_vector_fields, MEMORY},
    {"strategy.priority.signal", &keel_signal_fields, MEMORY},
    {"strategy.critical.order", &keel_order_fields, DURABLE},
    {"strategy.critical.fill", &keel_fill_fields, DURABLE},
    {"risk.critical.breach", &keel_breach_fields, DURABLE},
    {"risk.critical.trading_state", &keel_trading_state_fields, DURABLE},
    {"risk.priority.var", &keel_var_fields, MEMORY},
    {"portfolio.priority.position", &keel_position_fields, DURABLE},
    {"portfolio.priority.account", &keel_account_fields, DURABLE},
    {"portfolio.critical.adjustment", &keel_adjustment_fields, DURABLE},
    {"ml.priority.prediction", &keel_prediction_fields, MEMORY},
    {"ml.critical.anomaly", &keel_anomaly_fields, MEMORY},
    {"factor.priority.exposures", &keel_exposures_fields, MEMORY},
    {"analytics.realtime", &keel_analytics_fields, MEMORY},
    {"analytics.critical.breaker", &keel_breaker_event_rec_fields, MEMORY},
    {"risk.critical.breaker", &keel_breaker_event_rec_fields, MEMORY},
    {"factor.critical.breaker", &keel_breaker_event_rec_fields, MEMORY},
    {"ml.critical.breaker", &keel_breaker_event_rec_fields, MEMORY},
    {"features.critical.breaker", &keel_breaker_event_rec_fields, MEMORY},
    {"websocket.critical.breaker", &keel_breaker_event_rec_fields, MEMORY},
    {"strategy.critical.breaker", &keel_breaker_event_rec_fields, MEMORY},
    {"marketdata.critical.breaker", &keel_breaker_event_rec_fields, MEMORY},
    {"portfolio.critical.breaker", &keel_breaker_event_rec_fields, MEMORY},
};

const struct keel_topic *keel_topic_find(const char *name)
{
    for (size_t i = 0; i < KEEL_COUNT(topics); i++) {
        if (strcmp(topics[i].name, name) == 0)
            return &topics[i];
    }
    return NULL;
}

const struct keel_topic *keel_topics(size_t *n)
{
    *n = KEEL_COUNT(topics);
    return topics;
}

enum keel_lane keel_topic_lane(const char *name)
{
    const char *second = strchr(name, '.');
    if (second != NULL && strncmp(second, ".critical.", 10) == 0)
        return KEEL_LANE_CRITICAL;
    if (second != NULL && strncmp(second, ".priority.", 10) == 0)
        return KEEL_LANE_PRIORITY;
    return KEEL_LANE_NORMAL;
}
