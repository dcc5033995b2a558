#include "bindings.h"

namespace histofast::bindings {

void bind_tiles(nb::module_&) {}

}  // namespace histofast::bindings
