// SPDX-License-Identifier: MIT
/// Pieces of SVG as text. The same pieces give the same bytes.
#pragma once

#include <string>
#include <string_view>

namespace kvfit_tool::svg {

/// Two decimals, no "-0.00".
std::string number(double x);

/// As short as it can be: 20, 0.05, 1e-05.
std::string short_number(double x);

/// For text and attributes of XML and HTML.
std::string escaped(std::string_view text);

/// ` name="value"`.
std::string attribute(std::string_view name, std::string_view value);

std::string text_at(double x, double y, std::string_view text, const std::string& more = {});

std::string line_from(double x1, double y1, double x2, double y2, const std::string& more);

}  // namespace kvfit_tool::svg
