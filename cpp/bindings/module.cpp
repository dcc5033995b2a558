#include "bindings.h"

NB_MODULE(_core, m) {
    m.doc() = "Native kernels of histofast. The Python modules of the same names document them.";
    m.attr("version") = HISTOFAST_VERSION;
    histofast::bindings::bind_augment(m);
    histofast::bindings::bind_device(m);
    histofast::bindings::bind_glcm(m);
    histofast::bindings::bind_gram(m);
    histofast::bindings::bind_resize(m);
    histofast::bindings::bind_tiles(m);
    histofast::bindings::bind_tissue(m);
}
