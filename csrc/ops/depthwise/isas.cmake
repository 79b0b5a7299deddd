# The instruction sets that depthwise_cpu_<isa>.cpp are compiled for here, and their options. For the wheel and for the
# programs of tests/native.
set(depthwise_math -ffp-contract=fast -fno-trapping-math -fno-math-errno)
set(depthwise_scalar_options ${depthwise_math})
set(depthwise_avx2_options ${depthwise_math} -mavx2 -mfma)
set(depthwise_avx512_options ${depthwise_avx2_options}
  -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512)
set(depthwise_isas scalar)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
  list(APPEND depthwise_isas avx2 avx512)
endif()
