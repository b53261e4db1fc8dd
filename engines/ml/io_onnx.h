/* Whether ONNX Runtime can be loaded on this machine. */
#ifndef ML_IO_ONNX_H
#define ML_IO_ONNX_H

#include <stdbool.h>
#include <stddef.h>

/* true when it is there; one line on what was found, or why it could not be loaded. */
bool ml_onnx_probe(char *detail, size_t cap);

#endif
