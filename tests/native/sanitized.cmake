# What tests/native and tests/cuda_on_host compile with.
set(DNA_FAST_SANITIZE "address,undefined" CACHE STRING "What -fsanitize takes")
set(csrc "${CMAKE_CURRENT_LIST_DIR}/../../csrc")

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(sanitize -fsanitize=${DNA_FAST_SANITIZE} -fno-sanitize-recover=all)
# No NDEBUG: assertions stay on, as in the wheel.
add_compile_options(-g1 -fno-omit-frame-pointer -ffp-contract=off -Wall -Wextra -Werror ${sanitize})
add_link_options(${sanitize})
