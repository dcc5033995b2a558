#include "bindings.h"

namespace histofast::bindings {

void bind_tissue(nb::module_&) {}

}  // namespace histofast::bindings
