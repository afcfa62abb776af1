// SPDX-License-Identifier: MIT
/// What the published code gives on the heads of examples/data: the authors' code, float32,
/// off-policy, fitted on `q` and measured on `q_test`; t = T / ratio, rounded down.
#pragma once

#include <array>
#include <string_view>

#include "kvfit/core/matrix.hpp"

namespace kvfit_test {

struct published_figure {
  kvfit::index_t layer;
  kvfit::index_t head;
  kvfit::index_t ratio;
  std::string_view method;  ///< the preset of that name
  double output_error;      ///< mean of ‖o − ô‖ / ‖o‖
  double mass_error;        ///< mean of |exp(ΔLSE) − 1|
  double cosine;
};

inline constexpr std::array<published_figure, 36> published_figures = {{
    {1, 0, 10, "highest_attention", 0.3385032, 0.5027317, 0.9296563},
    {1, 1, 10, "highest_attention", 0.2936443, 0.5476547, 0.9639983},
    {1, 0, 10, "omp_fast", 0.2431092, 0.1334355, 0.9536676},
    {1, 1, 10, "omp_fast", 0.2312882, 0.1111961, 0.9665957},
    {1, 0, 10, "omp", 0.237649, 0.1249536, 0.9560198},
    {1, 1, 10, "omp", 0.2298155, 0.08658349, 0.9673938},
    {1, 0, 20, "highest_attention", 0.3930247, 0.686055, 0.9033465},
    {1, 1, 20, "highest_attention", 0.3648358, 0.8295013, 0.9477351},
    {1, 0, 20, "omp_fast", 0.3978588, 0.2064282, 0.8988865},
    {1, 1, 20, "omp_fast", 0.2944622, 0.1644966, 0.9549699},
    {1, 0, 20, "omp", 0.2903758, 0.1940858, 0.9400385},
    {1, 1, 20, "omp", 0.2838918, 0.1486105, 0.9552098},
    {1, 0, 50, "highest_attention", 0.4256239, 0.8733308, 0.8849727},
    {1, 1, 50, "highest_attention", 0.3783444, 0.7914443, 0.9407581},
    {1, 0, 50, "omp_fast", 0.3329143, 0.2602901, 0.9206325},
    {1, 1, 50, "omp_fast", 0.3529893, 0.2485953, 0.9392297},
    {1, 0, 50, "omp", 0.3265574, 0.2639521, 0.9230122},
    {1, 1, 50, "omp", 0.3370556, 0.2427167, 0.943793},
    {3, 0, 10, "highest_attention", 0.5564251, 0.3453314, 0.8118479},
    {3, 1, 10, "highest_attention", 0.3909179, 0.2976612, 0.9116436},
    {3, 0, 10, "omp_fast", 0.5449562, 0.2184279, 0.8211788},
    {3, 1, 10, "omp_fast", 0.3775657, 0.1378461, 0.9127642},
    {3, 0, 10, "omp", 0.5430382, 0.2086825, 0.8237589},
    {3, 1, 10, "omp", 0.3721595, 0.1288783, 0.9174113},
    {3, 0, 20, "highest_attention", 0.6294751, 0.5216773, 0.7592745},
    {3, 1, 20, "highest_attention", 0.4778113, 0.4376006, 0.8673471},
    {3, 0, 20, "omp_fast", 0.621491, 0.3357385, 0.7653235},
    {3, 1, 20, "omp_fast", 0.4777988, 0.2368064, 0.8672218},
    {3, 0, 20, "omp", 0.6198087, 0.3069666, 0.7676112},
    {3, 1, 20, "omp", 0.459046, 0.2065531, 0.876866},
    {3, 0, 50, "highest_attention", 0.6786005, 0.6659887, 0.7179112},
    {3, 1, 50, "highest_attention", 0.5433101, 0.5869944, 0.8249587},
    {3, 0, 50, "omp_fast", 0.6885397, 0.4715857, 0.7069408},
    {3, 1, 50, "omp_fast", 0.5791652, 0.4028668, 0.813647},
    {3, 0, 50, "omp", 0.684174, 0.4491928, 0.7114725},
    {3, 1, 50, "omp", 0.554208, 0.3522934, 0.825955},
}};

}  // namespace kvfit_test
