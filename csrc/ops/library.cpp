// Every schema of dna_fast on one page. Kernels register themselves in <op>_torch.cpp, fakes and gradients in Python.
#include <torch/library.h>

#include "common/cpu_target.h"

// Found in the file by dna_fast/ops/_library.py before the library is loaded: loaded into another torch, it would fail
// with a list of symbols, or not at all.
extern "C" [[gnu::used, gnu::visibility("default")]] const char dna_fast_built_with[] =
    "dna_fast._C built with torch " DNA_FAST_TORCH_VERSION;

TORCH_LIBRARY(dna_fast, m) {
    m.def("isa() -> str", [] { return std::string(dna_fast::isa_name(dna_fast::chosen_isa())); });
    // One MBConv layer in evaluation mode; what `packed` and `affine` hold is told in dna_fast/ops/mbconv.py.
    m.def("mbconv_pack(Tensor? conv_pw, Tensor conv_dw, Tensor conv_pwl, Tensor[] se, ScalarType dtype) -> Tensor");
    m.def(
        "mbconv(Tensor x, Tensor packed, Tensor affine, int out_channels, int mid_channels, int kernel, int stride, "
        "int se_channels, bool same_padding, bool residual) -> Tensor");
    m.def(
        "mbconv_reduce(Tensor x, Tensor packed, Tensor affine, int out_channels, int mid_channels, int kernel, "
        "int stride, int se_channels, bool same_padding, bool residual, Tensor target, Tensor? adapter_weight, "
        "Tensor? adapter_bias) -> Tensor");
    m.def(
        "mbconv_depthwise(Tensor x, Tensor packed, Tensor affine, int out_channels, int mid_channels, int kernel, "
        "int stride, int se_channels, bool same_padding) -> (Tensor h, Tensor moments)");
    m.def(
        "mbconv_project(Tensor h, Tensor packed, Tensor affine, int in_channels, int out_channels, int kernel, "
        "int se_channels, bool has_expansion) -> (Tensor y, Tensor moments)");
    // padding: rows above and below, columns left and right. Gradients that are not wanted are empty.
    m.def("depthwise_conv2d(Tensor x, Tensor weight, int stride, int[] padding) -> Tensor");
    m.def(
        "depthwise_conv2d_backward(Tensor gradient, Tensor x, Tensor weight, int stride, int[] padding, bool of_x, "
        "bool of_weight) -> (Tensor, Tensor)");
    m.def("feature_mse(Tensor student, Tensor teacher, bool with_gradient) -> (Tensor loss, Tensor gradient)");
}
