// kernels/window.cu, and its entry points for `run`.
#include "cuda_host.h"

#include "window.cu"

#ifdef IN
extern "C" void call_window_map(const void *parameters) { window_map(*static_cast<const Window *>(parameters)); }
extern "C" void call_window_cut(const void *parameters) { window_cut(*static_cast<const Window *>(parameters)); }
#else
extern "C" void call_window_copy(const void *parameters) { window_copy(*static_cast<const Window *>(parameters)); }
#endif
