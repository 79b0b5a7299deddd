# The instruction sets of this kind of processor that kernels are compiled for, <name>_cpu_<isa>.cpp each, and their options. For
# the wheel and for the programs of tests/native.
set(isas scalar)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
  list(APPEND isas avx2 avx512 avx512_bf16)
endif()
set(isa_scalar_options -ffp-contract=fast -fno-trapping-math -fno-math-errno)
set(isa_avx2_options ${isa_scalar_options} -mavx2 -mfma)
set(isa_avx512_options ${isa_avx2_options}
  -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512)
set(isa_avx512_bf16_options ${isa_avx512_options} -mavx512bf16)

# add_isas(target stem [WITHOUT isa...] [OPTIONS option...]): adds <stem>_<isa>.cpp, for every instruction set, to a target.
function(add_isas target stem)
  cmake_parse_arguments(PARSE_ARGV 2 given "" "" "WITHOUT;OPTIONS")
  foreach(isa IN LISTS isas)
    if(NOT isa IN_LIST given_WITHOUT)
      target_sources(${target} PRIVATE "${stem}_${isa}.cpp")
      set_source_files_properties("${stem}_${isa}.cpp" PROPERTIES COMPILE_OPTIONS
        "${isa_${isa}_options};${given_OPTIONS}")
    endif()
  endforeach()
endfunction()
