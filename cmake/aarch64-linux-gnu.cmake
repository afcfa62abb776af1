# 64-bit Arm Linux from another Linux, with Debian's cross compiler; programs run under qemu-user.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu)

# xsimd is headers alone, but Debian files its CMake package under the build machine's own name.
file(GLOB xsimd_ROOT /usr/lib/*-linux-gnu/cmake/xsimd)
