// Every schema of dna_fast on one page. Kernels register themselves in <op>_torch.cpp, fakes and gradients in Python.
#include <torch/library.h>

#include "common/cpu_target.h"

// Found in the file by dna_fast/ops/_library.py before the library is loaded: loaded into another torch, it would fail
// with a list of symbols, or not at all.
extern "C" [[gnu::used, gnu::visibility("default")]] const char dna_fast_built_with[] =
    "dna_fast._C built with torch " DNA_FAST_TORCH_VERSION;

TORCH_LIBRARY(dna_fast, m) {
    m.def("isa() -> str", [] { return std::string(dna_fast::isa_name(dna_fast::chosen_isa())); });
    m.def("feature_mse(Tensor student, Tensor teacher, bool with_gradient) -> (Tensor loss, Tensor gradient)");
}
