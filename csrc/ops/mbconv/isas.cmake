# The instruction sets that mbconv_cpu_<isa>.cpp are compiled for here, and their options. For the wheel and for the programs
# of tests/native.
set(mbconv_math -ffp-contract=fast -fno-trapping-math -fno-math-errno)
set(mbconv_scalar_options ${mbconv_math})
set(mbconv_avx2_options ${mbconv_math} -mavx2 -mfma)
set(mbconv_avx512_options ${mbconv_avx2_options} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512)
set(mbconv_avx512_bf16_options ${mbconv_avx512_options} -mavx512bf16)
set(mbconv_isas scalar)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
  list(APPEND mbconv_isas avx2 avx512 avx512_bf16)
endif()
