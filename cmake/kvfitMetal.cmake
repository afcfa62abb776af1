# kvfit_link_metal(TARGET METAL_CPP SOURCE): what kvfit::metal is on Apple: TARGET, an interface, takes metal-cpp
# from the directory METAL_CPP and links Metal. SOURCE, metal-cpp's own implementation, is compiled once in
# a build, however many targets link kvfit::metal.
function(kvfit_link_metal target metal_cpp source)
  if(NOT TARGET kvfit_metal_cpp)
    add_library(kvfit_metal_cpp STATIC EXCLUDE_FROM_ALL ${source})
    set_target_properties(kvfit_metal_cpp PROPERTIES POSITION_INDEPENDENT_CODE ON)
    target_compile_features(kvfit_metal_cpp PRIVATE cxx_std_20)
    target_include_directories(kvfit_metal_cpp SYSTEM PUBLIC ${metal_cpp})
    # Without Core Graphics macOS has no default device for a program of the command line.
    target_link_libraries(kvfit_metal_cpp PUBLIC
      "-framework CoreGraphics" "-framework Foundation" "-framework Metal")
  endif()
  target_compile_definitions(${target} INTERFACE KVFIT_METAL)
  target_link_libraries(${target} INTERFACE kvfit_metal_cpp)
endfunction()
