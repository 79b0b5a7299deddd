// What the programs share: failing in words.
#pragma once

#include <cstdlib>
#include <iostream>
#include <sstream>

namespace dna_fast {

// Ends the program with code 1 (a sanitizer ends it with another) after saying what was expected, and where.
template <class... Words>
void expect(bool holds, const Words&... words) {
    if (holds) return;
    std::ostringstream message;
    (message << ... << words);
    std::cerr << "wrong result: " << message.str() << std::endl;
    std::_Exit(1);  // at once: what exit() would run has no business on a GPU thread's stack
}

}  // namespace dna_fast
