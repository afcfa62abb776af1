// SPDX-License-Identifier: MIT
/// A Llama forward pass in double precision, written for reading: no cache, no tiles, its own
/// decoding of the weights. What examples/engine computes in fp32 is compared with this.
#pragma once

#include <Eigen/Core>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>

#include "engine/config.hpp"
#include "kvfit/io/safetensors.hpp"

namespace kvfit_test {

/// bf16 or F32 numbers of a tensor, rows × cols.
inline Eigen::MatrixXd tensor_in_double(const kvfit::safetensors_file& file,
                                        const std::string& name) {
  const kvfit::tensor_view* const tensor = kvfit::find_tensor(file, name);
  if (tensor == nullptr) return {};
  const auto cols = tensor->shape.back();
  const auto rows = tensor->shape.size() == 1 ? 1 : tensor->shape.front();
  Eigen::MatrixXd numbers(rows, cols);
  const std::size_t size = kvfit::size_of(tensor->type);
  for (Eigen::Index i = 0; i < rows * cols; ++i) {
    std::uint32_t bits = 0;  // of a bf16 the upper half of a float's
    auto* const to = reinterpret_cast<std::byte*>(&bits) + (4 - size);
    std::memcpy(to, tensor->bytes.data() + static_cast<std::size_t>(i) * size, size);
    numbers(i / cols, i % cols) = static_cast<double>(std::bit_cast<float>(bits));
  }
  return numbers;
}

inline Eigen::MatrixXd normed_in_double(const Eigen::MatrixXd& x, const Eigen::MatrixXd& weight,
                                        double epsilon) {
  Eigen::MatrixXd out = x;
  for (Eigen::Index i = 0; i < x.rows(); ++i) {
    out.row(i) /= std::sqrt(x.row(i).squaredNorm() / static_cast<double>(x.cols()) + epsilon);
    out.row(i) = out.row(i).cwiseProduct(weight);
  }
  return out;
}

/// Row p turned to position p, head by head, elements 2i and 2i + 1 together.
inline void turn_in_double(Eigen::MatrixXd& rows, const llama::config& sizes) {
  for (Eigen::Index p = 0; p < rows.rows(); ++p) {
    for (Eigen::Index first = 0; first < rows.cols(); first += sizes.head_dim) {
      for (Eigen::Index i = 0; i < sizes.head_dim / 2; ++i) {
        const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(sizes.head_dim);
        const double angle = static_cast<double>(p) * std::pow(sizes.rope_theta, exponent);
        double& a = rows(p, first + 2 * i);
        double& b = rows(p, first + 2 * i + 1);
        const double turned = a * std::cos(angle) - b * std::sin(angle);
        b = a * std::sin(angle) + b * std::cos(angle);
        a = turned;
      }
    }
  }
}

/// Logits after each token, from position 0.
inline Eigen::MatrixXd logits_in_double(const std::filesystem::path& model,
                                        const llama::config& sizes,
                                        std::span<const std::int32_t> tokens) {
  const auto file = kvfit::read_safetensors(model);
  if (!file) return {};
  const auto weight = [&](const std::string& name) {
    return tensor_in_double(*file, "model." + name + ".weight");
  };
  const Eigen::MatrixXd embedding = weight("embed_tokens");
  const auto count = static_cast<Eigen::Index>(tokens.size());
  const Eigen::Index width = sizes.head_dim;
  Eigen::MatrixXd hidden(count, embedding.cols());
  for (Eigen::Index i = 0; i < count; ++i) {
    hidden.row(i) = embedding.row(tokens[static_cast<std::size_t>(i)]);
  }
  for (Eigen::Index l = 0; l < sizes.num_hidden_layers; ++l) {
    const std::string at = "layers." + std::to_string(l) + ".";
    Eigen::MatrixXd x =
        normed_in_double(hidden, weight(at + "input_layernorm"), sizes.rms_norm_eps);
    Eigen::MatrixXd queries = x * weight(at + "self_attn.q_proj").transpose();
    Eigen::MatrixXd keys = x * weight(at + "self_attn.k_proj").transpose();
    const Eigen::MatrixXd values = x * weight(at + "self_attn.v_proj").transpose();
    turn_in_double(queries, sizes);
    turn_in_double(keys, sizes);
    Eigen::MatrixXd attended(count, queries.cols());
    const Eigen::Index group = sizes.num_attention_heads / sizes.num_key_value_heads;
    for (Eigen::Index h = 0; h < sizes.num_attention_heads; ++h) {
      const Eigen::Index kv = h / group;
      Eigen::MatrixXd weights = queries.middleCols(h * width, width) *
                                keys.middleCols(kv * width, width).transpose() /
                                std::sqrt(static_cast<double>(width));
      for (Eigen::Index i = 0; i < count; ++i) {
        auto seen = weights.row(i).head(i + 1);
        seen = (seen.array() - seen.maxCoeff()).exp().matrix().eval();
        seen /= seen.sum();
        weights.row(i).tail(count - i - 1).setZero();
      }
      attended.middleCols(h * width, width) = weights * values.middleCols(kv * width, width);
    }
    hidden += attended * weight(at + "self_attn.o_proj").transpose();
    x = normed_in_double(hidden, weight(at + "post_attention_layernorm"), sizes.rms_norm_eps);
    const Eigen::MatrixXd gate = x * weight(at + "mlp.gate_proj").transpose();
    const Eigen::MatrixXd up = x * weight(at + "mlp.up_proj").transpose();
    const Eigen::MatrixXd inner = gate.unaryExpr([](double g) { return g / (1 + std::exp(-g)); });
    hidden += inner.cwiseProduct(up) * weight(at + "mlp.down_proj").transpose();
  }
  return normed_in_double(hidden, weight("norm"), sizes.rms_norm_eps) * embedding.transpose();
}

}  // namespace kvfit_test
