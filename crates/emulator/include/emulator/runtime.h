// The functions of functions.h, as C++ declarations.
#pragma once
#include "functions.h"

#define EMULATOR_DECLARE(result, name, parameters, arguments) extern "C" result emulator_##name parameters;
EMULATOR_FUNCTIONS(EMULATOR_DECLARE)
#undef EMULATOR_DECLARE
