// What this build of _C has, for `dna-fast info`: strings that dna_fast/ops/_library.py finds in the file, as it does
// the torch version of library.cpp, because a fact is no operator and needs no schema.

// DNA_FAST_CUDA_FACTS comes from CMakeLists.txt: what was built, or why not.
extern "C" [[gnu::used, gnu::visibility("default")]] const char dna_fast_cuda_facts[] =
    "dna_fast._C CUDA kernels: " DNA_FAST_CUDA_FACTS;

// Those of common/cpu_target.h.
extern "C" [[gnu::used, gnu::visibility("default")]] const char dna_fast_isa_facts[] =
    "dna_fast._C CPU kernels: "
#if defined(__x86_64__)
    "avx512_bf16, avx512, avx2, scalar";
#else
    "scalar";
#endif
