# An overlay: it packs the tree that it lies in.
get_filename_component(SOURCE_PATH "${CMAKE_CURRENT_LIST_DIR}/../../../.." ABSOLUTE)

if("c" IN_LIST FEATURES)
    # kvfit_c hides all but its own symbols, which an archive can't
    vcpkg_check_linkage(ONLY_DYNAMIC_LIBRARY)
endif()

vcpkg_check_features(OUT_FEATURE_OPTIONS FEATURE_OPTIONS
    FEATURES
        c        KVFIT_C
        compiled KVFIT_COMPILED
        io       KVFIT_IO
        mpi      KVFIT_MPI
        tools    KVFIT_BUILD_TOOLS
)

if(NOT "compiled" IN_LIST FEATURES AND NOT "c" IN_LIST FEATURES)
    set(VCPKG_BUILD_TYPE release) # header-only, but for the tool
endif()

vcpkg_cmake_configure(
    SOURCE_PATH "${SOURCE_PATH}"
    OPTIONS
        ${FEATURE_OPTIONS}
        -DKVFIT_BUILD_BENCH=OFF
        -DKVFIT_BUILD_EXAMPLES=OFF
        -DKVFIT_BUILD_TESTS=OFF
        -DKVFIT_CPACK=OFF
        -DKVFIT_INSTALL=ON
        -DKVFIT_METAL=OFF
    OPTIONS_DEBUG
        -DKVFIT_BUILD_TOOLS=OFF
)

vcpkg_cmake_install()
vcpkg_cmake_config_fixup(CONFIG_PATH share/cmake/${PORT})
# Two packages lie in lib/cmake.
foreach(feature IN ITEMS compiled c)
    if(feature IN_LIST FEATURES)
        vcpkg_cmake_config_fixup(
            PACKAGE_NAME kvfit_${feature}
            CONFIG_PATH lib/cmake/kvfit_${feature}
            DO_NOT_DELETE_PARENT_CONFIG_PATH
        )
    endif()
endforeach()
# Files for pkg-config in share/ must not link anything; Cflags has -pthread, too.
vcpkg_replace_string("${CURRENT_PACKAGES_DIR}/share/pkgconfig/kvfit.pc" "Libs: -pthread" "Libs:")
vcpkg_fixup_pkgconfig()
if("tools" IN_LIST FEATURES)
    vcpkg_copy_tools(TOOL_NAMES kvfit AUTO_CLEAN)
endif()

file(REMOVE_RECURSE
    "${CURRENT_PACKAGES_DIR}/debug/include"
    "${CURRENT_PACKAGES_DIR}/debug/lib/cmake"
    "${CURRENT_PACKAGES_DIR}/debug/share"
    "${CURRENT_PACKAGES_DIR}/lib/cmake"
    "${CURRENT_PACKAGES_DIR}/share/doc"
)
if(NOT "compiled" IN_LIST FEATURES AND NOT "c" IN_LIST FEATURES)
    file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/lib")
endif()

file(INSTALL "${CMAKE_CURRENT_LIST_DIR}/usage" DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
