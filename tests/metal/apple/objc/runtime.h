// SPDX-License-Identifier: MIT
/// Declarations of Apple's runtime that metal-cpp's headers name: enough to parse them elsewhere, so
/// that the host side's calls are checked against theirs. Nothing of this is linked or run.
#pragma once

#include <cstddef>
#include <cstdint>

struct objc_class;
struct objc_object {};
struct objc_selector;
using Class = objc_class*;
using id = objc_object*;
using SEL = objc_selector*;
using BOOL = bool;
struct Protocol;

extern "C" {
Class objc_lookUpClass(const char* name);
Class objc_getClass(const char* name);
Class object_getClass(id object);
Protocol* objc_getProtocol(const char* name);
SEL sel_registerName(const char* name);
bool class_respondsToSelector(Class of, SEL name);
struct objc_method;
objc_method* class_getInstanceMethod(Class of, SEL name);
struct objc_method_description {
  SEL name;
  char* types;
};
}
