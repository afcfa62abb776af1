# kvfit::metal: shaders for Apple GPUs, as text in a header, so that no file is read at run time. On
# Apple, when asked for, it needs Apple's metal-cpp and links Metal; elsewhere it is the headers alone, and
# kvfit::metal::find_availability() says that it was not built.
include(${CMAKE_CURRENT_LIST_DIR}/flatten_shader.cmake)

option(KVFIT_METAL "Offer kvfit::metal, which needs Apple's metal-cpp" OFF)
set(KVFIT_METAL_CPP "" CACHE PATH "The directory of metal-cpp, in which Metal/Metal.hpp lies")

# kvfit_embed_shaders(HEADER): writes kvfit::metal::sources, one text for each .metal file, its own
# includes in their places.
function(kvfit_embed_shaders header)
  set(directory ${PROJECT_SOURCE_DIR}/include/kvfit/metal/kernels)
  file(GLOB shaders CONFIGURE_DEPENDS ${directory}/*.metal)
  # Written anew when any of them changes.
  file(GLOB_RECURSE parts CONFIGURE_DEPENDS ${directory}/*.metal ${directory}/*.h)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${parts})
  set(entries "")
  foreach(shader IN LISTS shaders)
    get_filename_component(name ${shader} NAME_WE)
    kvfit_flatten_shader(${shader} text)
    set(entries "${entries}    {\"${name}\", R\"kvfit(${text})kvfit\"},\n")
  endforeach()
  file(CONFIGURE OUTPUT ${header} @ONLY CONTENT
    [[// Written by cmake/metal.cmake from include/kvfit/metal/kernels.
#pragma once

#include <string_view>

namespace kvfit::metal {

/// A shader as Metal's compiler takes it, under the name of its file.
struct shader_source {
  std::string_view name;
  std::string_view text;
};

inline constexpr shader_source sources[] = {
@entries@};

}  // namespace kvfit::metal
]])
endfunction()

# Installed, the same target is put together where it is used (kvfitMetal.cmake).
set(kvfit_metal_generated ${PROJECT_BINARY_DIR}/metal)
kvfit_embed_shaders(${kvfit_metal_generated}/kvfit/metal/sources.hpp)
add_library(kvfit_metal INTERFACE)
add_library(kvfit::metal ALIAS kvfit_metal)
target_include_directories(kvfit_metal INTERFACE ${kvfit_metal_generated})
target_link_libraries(kvfit_metal INTERFACE kvfit)
if(KVFIT_METAL)
  if(NOT APPLE)
    message(FATAL_ERROR "kvfit: KVFIT_METAL is ON, and this is not an Apple system")
  endif()
  find_path(kvfit_metal_cpp Metal/Metal.hpp HINTS ${KVFIT_METAL_CPP} NO_CACHE)
  if(NOT kvfit_metal_cpp)
    message(FATAL_ERROR "kvfit: metal-cpp was not found; name its directory by KVFIT_METAL_CPP")
  endif()
  include(${CMAKE_CURRENT_LIST_DIR}/kvfitMetal.cmake)
  kvfit_link_metal(kvfit_metal ${kvfit_metal_cpp} ${CMAKE_CURRENT_LIST_DIR}/metal_cpp.cpp)
endif()
