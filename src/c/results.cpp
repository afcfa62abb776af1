// SPDX-License-Identifier: MIT
#include "results.hpp"

#include <utility>

#include "guard.hpp"

namespace kvfit_c {

namespace {

kvfit_rows rows_of(const float* data, int64_t rows, int64_t cols) {
  kvfit_rows out{};
  out.struct_size = sizeof out;
  out.data = data;
  out.rows = rows;
  out.cols = cols;
  out.row_stride = cols;
  out.col_stride = 1;
  return out;
}

kvfit_block block_of(const c_block& rows, const float* bias, const int64_t* positions) {
  kvfit_block out{};
  out.struct_size = sizeof out;
  out.keys = &rows.keys;
  out.values = &rows.values;
  out.bias = bias;
  out.positions = positions;
  return out;
}

}  // namespace

kvfit_report report_of(const kvfit::compact_report& report) {
  const kvfit::fidelity& judged = report.held_out ? *report.held_out : report.train;
  kvfit_report out{};
  out.struct_size = sizeof out;
  out.is_identity = report.is_identity ? 1 : 0;
  out.judged_queries = report.held_out ? report.held_out->queries : 0;
  out.output_error = judged.output_error;
  out.output_error_max = judged.output_error_max;
  out.mass_error = judged.mass_error;
  out.mass_error_max = judged.mass_error_max;
  out.train_output_error = report.train.output_error;
  out.train_mass_error = report.train.mass_error;
  out.is_bias_fitted = report.is_bias_fitted ? 1 : 0;
  out.is_values_fitted = report.is_values_fitted ? 1 : 0;
  out.dead_keys = report.dead_keys;
  out.masked_queries = report.masked_queries;
  out.kept_steps = report.refinement.kept_steps;
  out.memory_needed = report.memory.needed;
  out.memory_wanted = report.memory.wanted;
  out.seconds = report.seconds.total;
  return out;
}

}  // namespace kvfit_c

kvfit_compacted::kvfit_compacted(kvfit::compacted fitted)
    : own(std::move(fitted)), report(kvfit_c::report_of(own.report)) {
  const int64_t count = own.keys.rows();
  rows = {kvfit_c::rows_of(own.keys.data(), count, own.keys.cols()),
          kvfit_c::rows_of(own.values.data(), count, own.values.cols())};
  block = kvfit_c::block_of(rows, own.bias.data(), own.key_positions.data());
  result = {.struct_size = sizeof result,
            .rows = count,
            .depth = own.keys.cols(),
            .width = own.values.cols(),
            .positions = own.positions.data(),
            .key_positions = own.key_positions.data(),
            .keys = own.keys.data(),
            .bias = own.bias.data(),
            .values = own.values.data(),
            .block = &block,
            .report = &report};
}

kvfit_cache::kvfit_cache(std::shared_ptr<const kvfit::compacted_cache> cache)
    : own(std::move(cache)), parts(own->layers.size()) {
  layers.reserve(parts.size());
  for (std::size_t l = 0; l < parts.size(); ++l) {
    const kvfit::compacted_layer& from = own->layers[l];
    layer& to = parts[l];
    const std::size_t heads = from.heads.size();
    to.rows.reserve(heads);
    to.blocks.reserve(heads);
    to.details.reserve(heads);
    to.reports.reserve(heads);
    for (std::size_t h = 0; h < heads; ++h) {
      const int64_t first = from.offsets[h];
      const int64_t count = from.rows(h);
      to.rows.push_back(
          {kvfit_c::rows_of(from.keys.data() + first * from.keys.cols(), count, from.keys.cols()),
           kvfit_c::rows_of(from.values.data() + first * from.values.cols(), count,
                            from.values.cols())});
      to.blocks.push_back(kvfit_c::block_of(to.rows.back(), from.bias.data() + first,
                                            from.key_positions.data() + first));
      const kvfit::head_report& said = from.heads[h];
      to.details.push_back(kvfit_c::report_of(said.report));
      kvfit_head_report report{};
      report.struct_size = sizeof report;
      report.layer = said.id.layer;
      report.head = said.id.head;
      report.rows_before = said.rows_before;
      report.rows = said.rows;
      report.outcome = static_cast<int32_t>(said.outcome);
      report.cause = said.cause ? kvfit_c::code_of(said.cause->code) : KVFIT_OK;
      report.report = &to.details.back();
      to.reports.push_back(report);
    }
    layers.push_back({.struct_size = sizeof(kvfit_layer_result),
                      .number = from.number,
                      .depth = from.keys.cols(),
                      .width = from.values.cols(),
                      .head_count = heads,
                      .offsets = from.offsets.data(),
                      .positions = from.positions.data(),
                      .key_positions = from.key_positions.data(),
                      .keys = from.keys.data(),
                      .bias = from.bias.data(),
                      .values = from.values.data(),
                      .blocks = to.blocks.data(),
                      .reports = to.reports.data()});
  }
  result = {.struct_size = sizeof result,
            .layers = layers.data(),
            .layer_count = layers.size(),
            .skipped = own->skipped.data(),
            .skipped_count = own->skipped.size(),
            .rows_before = own->rows_before,
            .rows = own->rows,
            .fallbacks = own->fallbacks};
}
