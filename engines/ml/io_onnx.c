/*
 * Looks for ONNX Runtime at run time, so that the answer to "which back ends are there" is what was found, not what was
 * hoped for. No model is run on it.
 */
#include "io_onnx.h"

#include <dlfcn.h>
#include <stdio.h>

bool ml_onnx_probe(char *detail, size_t cap)
{
    void *library = dlopen("libonnxruntime.so.1", RTLD_LAZY | RTLD_LOCAL);
    bool there = library && dlsym(library, "OrtGetApiBase");

    if (there)
        snprintf(detail, cap, "libonnxruntime.so.1 is there, but no ONNX model is registered");
    else {
        const char *why = dlerror();
        snprintf(detail, cap, "%s", why ? why : "libonnxruntime.so.1 has no OrtGetApiBase");
    }
    if (library)
        dlclose(library);
    return there;
}
