// SPDX-License-Identifier: MIT
#include "support/dense.hpp"

#include <Eigen/Dense>
#include <algorithm>

namespace oracle {

using Eigen::MatrixXd;
using Eigen::VectorXd;

MatrixXd to_double(const kvfit::matrix& a) {
  return a.cast<double>();
}
kvfit::matrix to_float(const MatrixXd& a) {
  return a.cast<float>();
}

MatrixXd product(const MatrixXd& a, const MatrixXd& b) {
  return a * b;
}
MatrixXd transposed_product(const MatrixXd& a, const MatrixXd& b) {
  return a.transpose() * b;
}
MatrixXd scaled_product(const MatrixXd& a, const VectorXd& scale, const MatrixXd& b) {
  const MatrixXd scaled = a * scale.asDiagonal();
  return product(scaled, b.transpose());
}
kvfit::matrix product_in_float(const kvfit::matrix& a, const kvfit::matrix& b) {
  return a * b;
}

double norm(const MatrixXd& a) {
  return a.norm();
}
double distance(const MatrixXd& a, const MatrixXd& b) {
  return (a - b).norm();
}
double relative_error(const MatrixXd& found, const MatrixXd& truth) {
  return distance(found, truth) / std::max(truth.norm(), 1e-300);
}
double largest_difference(const MatrixXd& a, const MatrixXd& b) {
  return (a - b).cwiseAbs().maxCoeff();
}
double residual_norm(const MatrixXd& x, const MatrixXd& c, const MatrixXd& y) {
  return distance(product(x, c), y);
}

VectorXd singular_values(const MatrixXd& a) {
  return Eigen::JacobiSVD<MatrixXd>(a).singularValues();
}
VectorXd eigenvalues(const MatrixXd& a) {
  return Eigen::SelfAdjointEigenSolver<MatrixXd>(a, Eigen::EigenvaluesOnly).eigenvalues();
}
MatrixXd orthonormal_columns(const MatrixXd& a) {
  MatrixXd q = MatrixXd::Identity(a.rows(), a.cols());
  q.applyOnTheLeft(a.householderQr().householderQ());
  return q;
}
MatrixXd upper_triangle(const MatrixXd& a) {
  return a.triangularView<Eigen::Upper>();
}

MatrixXd solve_by_qr(const MatrixXd& x, const MatrixXd& y) {
  return x.householderQr().solve(y);
}
MatrixXd solve_by_pivoted_qr(const MatrixXd& x, const MatrixXd& y) {
  return x.colPivHouseholderQr().solve(y);
}
MatrixXd solve_by_orthogonal(const MatrixXd& x, const MatrixXd& y, double threshold) {
  Eigen::CompleteOrthogonalDecomposition<MatrixXd> solver;
  if (threshold > 0) solver.setThreshold(threshold);
  solver.compute(x);
  return solver.solve(y);
}
MatrixXd solve_by_svd(const MatrixXd& x, const MatrixXd& y, double tolerance) {
  Eigen::JacobiSVD<MatrixXd> svd(x, Eigen::ComputeThinU | Eigen::ComputeThinV);
  svd.setThreshold(tolerance);
  return svd.solve(y);
}
MatrixXd solve_by_cholesky(const MatrixXd& a, const MatrixXd& b) {
  return a.llt().solve(b);
}
MatrixXd solve_by_ldlt(const MatrixXd& a, const MatrixXd& b) {
  return a.ldlt().solve(b);
}
MatrixXd solve_upper(const MatrixXd& u, const MatrixXd& b) {
  return u.triangularView<Eigen::Upper>().solve(b);
}
MatrixXd solve_upper_transposed(const MatrixXd& u, const MatrixXd& b) {
  return u.transpose().triangularView<Eigen::Lower>().solve(b);
}

}  // namespace oracle
