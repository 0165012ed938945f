// kernels/warp.cu, and its entry points for `run`.
#include "cuda_host.h"

#include "warp.cu"

#ifdef IN
extern "C" void call_warp_pixels(const void *parameters) { warp_pixels(*static_cast<const Warp *>(parameters)); }
extern "C" void call_warp_images(const void *parameters) { warp_images(*static_cast<const Warp *>(parameters)); }
#else
extern "C" void call_copy_images(const void *parameters) { copy_images(*static_cast<const Transfer *>(parameters)); }
#endif
