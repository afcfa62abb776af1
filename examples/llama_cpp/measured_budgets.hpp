// SPDX-License-Identifier: MIT
/// Rows for the heads of a model, by what llama.cpp says when one of them alone is compacted.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "kvfit/cache/influence_curve.hpp"
#include "llama_cpp/evaluation.hpp"

namespace llama_cpp {

/// Measures every KV head of the layers that are compacted, at some shares of its rows: the mean KL
/// to the full cache of what the model says behind each document, the means of texts and of answers
/// counting alike. All else stays as it is, so that the curve is the head's own.
///
/// Documents should not be those that are judged later. Errors: `empty_input` for no documents;
/// those of `prepare`, `compact_cache` and `session::put_back`. Cost: heads · 5 times a compaction
/// of one head and a reading of the document's passages.
result<share_curves> measure_budgets(session& model, const std::vector<document>& on,
                                     const evaluation_plan& plan, kvfit::thread_pool& pool,
                                     const std::function<void(const std::string&)>& said);

}  // namespace llama_cpp
