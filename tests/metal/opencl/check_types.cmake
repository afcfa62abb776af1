# cmake -DTRANSLATE=… -DINPUT=… -DOUTPUT=… -DCLANG=… -DPRELUDE=… -P check_types.cmake: translates a
# preprocessed shader and has clang compile it as C++ for OpenCL, without a warning. What Metal's C++14
# does not have is an error, and so is a loop that can't be unrolled as it asks to be.
execute_process(COMMAND ${TRANSLATE} opencl ${INPUT} ${OUTPUT} kvfit_shader RESULT_VARIABLE result)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "${INPUT} could not be translated")
endif()
# Not used in this shader, or declared in the prelude alone, is no fault of a header or a shader.
execute_process(COMMAND ${CLANG} -x clcpp -cl-std=CLC++2021 -target spir64 -cl-no-stdinc
    -cl-single-precision-constant -O2 -emit-llvm -S -o ${OUTPUT}.ll
    -Wall -Wextra -Werror -Wno-unused -Wc++98-c++11-c++14-compat
    -Wno-undefined-inline -Wno-defaulted-function-deleted
    -include ${PRELUDE} ${OUTPUT}
  RESULT_VARIABLE result)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "clang refuses ${INPUT}")
endif()
