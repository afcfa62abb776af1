// SPDX-License-Identifier: MIT
/// kvfit_metal_translate LANGUAGE INPUT OUTPUT NAMESPACE: rewrites a preprocessed .metal file as
/// C++ for the emulator (LANGUAGE c++), or as C++ for OpenCL, which clang checks address spaces in
/// (LANGUAGE opencl; opencl/prelude.h).
///
/// It works on tokens and knows just enough of the language: types with an address space, kernels
/// and their attributes, explicit instantiations, literals. Everything else passes unchanged, so
/// that the compiler that reads the result checks it as C++. Line numbers stay those of the
/// original file.
#include <cctype>
#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace {

enum class kind { word, number, literal, symbol, blank, line_marker, end };

struct token {
  kind what = kind::end;
  std::string text;
};

struct failure {
  std::string message;
};

// ---- Tokens -------------------------------------------------------------------------------------

bool starts_word(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) != 0 || c == '_';
}
bool in_word(char c) {
  return starts_word(c) || std::isdigit(static_cast<unsigned char>(c)) != 0;
}
bool is_digit(char c) {
  return std::isdigit(static_cast<unsigned char>(c)) != 0;
}

/// Comments are gone: the preprocessor has removed them.
std::vector<token> tokens_of(const std::string& text) {
  std::vector<token> all;
  std::size_t i = 0;
  const auto take = [&](kind what, std::size_t end) {
    all.push_back({what, text.substr(i, end - i)});
    i = end;
  };
  bool line_start = true;
  while (i < text.size()) {
    const char c = text[i];
    if (c == '#' && line_start) {
      const std::size_t end = std::min(text.find('\n', i), text.size());
      take(kind::line_marker, end);
      continue;
    }
    if (std::isspace(static_cast<unsigned char>(c)) != 0) {
      if (c == '\n') line_start = true;
      take(kind::blank, i + 1);
      continue;
    }
    line_start = false;
    if (starts_word(c)) {
      std::size_t end = i;
      while (end < text.size() && in_word(text[end])) ++end;
      take(kind::word, end);
    } else if (is_digit(c) || (c == '.' && i + 1 < text.size() && is_digit(text[i + 1]))) {
      std::size_t end = i;
      while (end < text.size() &&
             (in_word(text[end]) || text[end] == '.' || text[end] == '\'' ||
              ((text[end] == '+' || text[end] == '-') &&
               (std::tolower(text[end - 1]) == 'e' || std::tolower(text[end - 1]) == 'p')))) {
        ++end;
      }
      take(kind::number, end);
    } else if (c == '"' || c == '\'') {
      std::size_t end = i + 1;
      while (end < text.size() && text[end] != c) end += text[end] == '\\' ? 2 : 1;
      take(kind::literal, std::min(end + 1, text.size()));
    } else {
      static const char* const pairs[] = {"::", "->", "&&", "||", "<=", ">=", "==", "!="};
      std::size_t length = 1;
      for (const char* p : pairs) {
        if (text.compare(i, 2, p) == 0) length = 2;
      }
      take(kind::symbol, i + length);
    }
  }
  return all;
}

bool is_floating(const std::string& number) {
  const bool hex = number.size() > 1 && (number[1] == 'x' || number[1] == 'X');
  if (hex) return number.find_first_of("pP") != std::string::npos;
  return number.find_first_of(".eE") != std::string::npos;
}

/// A floating-point literal without a suffix is fp32 in Metal; 1.0h is half, 1.0bf bfloat.
std::string number_text(const std::string& number) {
  const auto ends_in = [&](const std::string& lower, const std::string& upper) {
    if (number.size() <= lower.size()) return false;
    const std::string end = number.substr(number.size() - lower.size());
    return end == lower || end == upper;
  };
  const auto call_of = [&](const std::string& type, std::size_t suffix) {
    return type + "(" + number_text(number.substr(0, number.size() - suffix)) + ")";
  };
  const bool hex = number.size() > 1 && (number[1] == 'x' || number[1] == 'X');
  if (!hex && ends_in("h", "H")) return call_of("half", 1);
  if (!hex && ends_in("bf", "BF")) return call_of("bfloat", 2);
  if (is_floating(number) && (is_digit(number.back()) || number.back() == '.')) return number + "f";
  return number;
}

// ---- Translation --------------------------------------------------------------------------------

struct parameter {
  std::string attribute;  // "buffer(0)", "thread_position_in_grid"
};

struct kernel_signature {
  std::vector<parameter> parameters;
  std::string max_threads;
};

const std::set<std::string> address_spaces = {"device", "constant", "threadgroup", "thread"};
const std::set<std::string> builtin_words = {"unsigned", "signed", "char", "short", "int",   "long",
                                             "float",    "bool",   "void", "half",  "bfloat"};

/// Whether `word` is a vector type such as uint3.
bool is_vector_type(const std::string& word) {
  if (word.size() < 4 || word.back() < '2' || word.back() > '4') return false;
  static const std::set<std::string> elements = {"char", "uchar", "short", "ushort", "int", "uint",
                                                 "long", "ulong", "half",  "float",  "bool"};
  return elements.count(word.substr(0, word.size() - 1)) != 0;
}

enum class language { cpp, opencl };

class translator {
 public:
  translator(language target, std::vector<token> tokens, std::string unit)
      : target_(target), tokens_(std::move(tokens)), unit_(std::move(unit)) {}

  std::string run() {
    out_ = target_ == language::cpp ? "#include \"metal/emulator/metal_stdlib.hpp\"\n" : "";
    out_ += "namespace " + unit_ + " {\n";
    while (at_ < tokens_.size()) step();
    if (!braces_.empty()) fail("a brace is not closed");
    out_ += "\n}  // namespace " + unit_ + "\n";
    return std::move(out_);
  }

  [[nodiscard]] const std::string& where() const { return where_; }

 private:
  // ---- Reading ----
  [[noreturn]] void fail(const std::string& message) { throw failure{message}; }

  const token& peek(std::size_t ahead = 0) {
    static const token end{};
    std::size_t i = at_;
    for (;;) {
      while (i < tokens_.size() &&
             (tokens_[i].what == kind::blank || tokens_[i].what == kind::line_marker)) {
        ++i;
      }
      if (i >= tokens_.size()) return end;
      if (ahead == 0) return tokens_[i];
      --ahead, ++i;
    }
  }
  /// The next token that is no blank; blanks and line markers before it go to the output, so that
  /// lines keep their numbers.
  token next() {
    while (at_ < tokens_.size() &&
           (tokens_[at_].what == kind::blank || tokens_[at_].what == kind::line_marker)) {
      copy_blank(tokens_[at_++]);
    }
    if (at_ >= tokens_.size()) fail("the file ends too early");
    return tokens_[at_++];
  }
  void copy_blank(const token& t) {
    if (t.what == kind::blank) {
      out_ += t.text;
      return;
    }
    // What loops ask of the optimiser is checked as C++ for OpenCL.
    if (target_ == language::opencl && t.text.rfind("#pragma clang loop", 0) == 0) {
      out_ += t.text;
      return;
    }
    // `# 12 "file" flags` becomes `#line 12 "file"`; other pragmas have no meaning here.
    std::istringstream line(t.text.substr(1));
    std::string number;
    line >> number;
    if (number.empty() || !is_digit(number[0]) || number == "0") return;  // g++ starts at 0
    const std::size_t open = t.text.find('"'), close = t.text.rfind('"');
    if (open == std::string::npos || close <= open) return;
    const std::string file = t.text.substr(open + 1, close - open - 1);
    if (file.empty() || file[0] == '<') return;
    file_ = file.substr(file.rfind('/') + 1);
    where_ = file + ":" + number;
    out_ += "#line " + number + " \"" + file + "\"";
  }
  void expect(const std::string& text) {
    const token t = next();
    if (t.text != text) fail("expected " + text + " and found " + t.text);
  }

  /// Everything up to `close` at this level, `open` having been read; `close` is consumed.
  std::string raw_until(const std::string& open, const std::string& close) {
    std::string text;
    int depth = 1;
    for (;;) {
      const token t = next();
      if (t.text == open) ++depth;
      if (t.text == close && --depth == 0) return text;
      text += (text.empty() ? "" : " ") + (t.what == kind::number ? number_text(t.text) : t.text);
    }
  }

  /// `[[ … ]]`, if that is next: its content without blanks between tokens.
  bool attribute(std::string* content) {
    if (peek().text != "[" || peek(1).text != "[") return false;
    next(), next();
    content->clear();
    int depth = 0;
    for (;;) {
      const token t = next();
      if (t.text == "[") ++depth;
      if (t.text == "]") {
        if (depth == 0) {
          expect("]");
          return true;
        }
        --depth;
      }
      *content += t.text;
    }
  }

  // ---- Writing ----
  void emit(const std::string& text) {
    if (!out_.empty() && in_word(out_.back()) && !text.empty() && in_word(text[0])) out_ += ' ';
    out_ += text;
  }
  /// Removes `word` from the end of the output, if it stands there.
  bool take_back(const std::string& word) {
    std::size_t end = out_.size();
    while (end > 0 && std::isspace(static_cast<unsigned char>(out_[end - 1])) != 0) --end;
    if (end < word.size() || out_.compare(end - word.size(), word.size(), word) != 0) return false;
    if (end > word.size() && in_word(out_[end - word.size() - 1])) return false;
    out_.erase(end - word.size(), word.size());
    return true;
  }

  // ---- Types with an address space ----
  /// A type name: words, qualified names, template arguments. No declarator.
  std::string type_name(bool* is_const) {
    std::string name;
    bool any = false, builtin = false;
    for (;;) {
      const token t = peek();
      if (t.text == "const") {
        *is_const = true;
        next();
      } else if (t.text == "volatile" || t.text == "struct" || t.text == "typename") {
        if (t.text == "typename") name += "typename ";
        next();
      } else if (t.what == kind::word && address_spaces.count(t.text) == 0 &&
                 (!any || (builtin && builtin_words.count(t.text) != 0))) {
        next();
        builtin = builtin_words.count(t.text) != 0;
        name += (any ? " " : "") + t.text;
        any = true;
      } else if (t.text == "::") {
        next();
        name += "::";
        if (peek().what != kind::word) fail("expected a name after ::");
        name += next().text;
        any = true;
      } else if (t.text == "<" && any && !builtin) {
        next();
        name += "<" + raw_until("<", ">") + ">";
      } else {
        break;
      }
    }
    if (!any) fail("expected a type after an address space, found " + peek().text);
    return name;
  }

  static std::string space_of(const std::string& word) {
    return "::metal_emulator::space::" + word;
  }

  /// OpenCL has address spaces by other names, and tells them apart as Metal does. Only variables
  /// of threadgroup memory need help: OpenCL wants them in kernels, and has no kernel templates. A
  /// reference to such memory is as good for a check of types.
  void opencl_address_space(const std::string& word) {
    static const std::map<std::string, std::string> names = {{"device", "__global"},
                                                             {"constant", "__constant"},
                                                             {"threadgroup", "__local"},
                                                             {"thread", "__private"}};
    const std::string& name = names.at(word);
    if (word == "threadgroup" || word == "constant") {
      const std::size_t at = at_;
      const std::string out = out_;
      bool is_const = false;
      const std::string type = type_name(&is_const);
      if (word == "threadgroup" && peek().what == kind::word) {
        opencl_threadgroup_variables(type);
        return;
      }
      if (word == "constant" && peek().what == kind::word && peek(1).text == "[" &&
          peek(2).text == "[") {
        emit("extern __constant " + type + " ");  // a function constant
        return;
      }
      at_ = at;
      out_ = out;
    }
    emit(name);
    out_ += ' ';
  }

  void opencl_threadgroup_variables(const std::string& type) {
    for (;;) {
      const std::string name = next().text;
      std::string list;
      while (peek().text == "[" && peek(1).text != "[") {
        next();
        list += "[" + raw_until("[", "]") + "]";
      }
      emit("__local " + type + " (&" + name + ")" + list + " = ::metal::threadgroup_variable<" +
           type + list + ">()");
      if (peek().text != ",") return;
      next();
      emit(";");
    }
  }

  /// After `struct`: copies from constant memory, which Metal makes by itself. They are defaulted,
  /// so that an aggregate stays one.
  void opencl_structure() {
    if (peek().what != kind::word || (peek(1).text != "{" && peek(1).text != ":")) return;
    const std::string name = next().text;
    emit(name);
    while (peek().text != "{") step();
    next();
    braces_.push_back('{');
    out_ += "{ " + name + "() = default;";
    for (const char* from : {"", "__constant "}) {
      const std::string other = "(const " + std::string(from) + name + "&) = default;";
      out_ += " " + name + other + " " + name + "& operator=" + other;
    }
  }

  void address_space(const std::string& word) {
    if (target_ == language::opencl) {
      opencl_address_space(word);
      return;
    }
    bool is_const = take_back("const");
    if (word == "thread") {
      // The thread's own memory is C++'s.
      if (is_const) emit("const ");
      return;
    }
    const std::string type = type_name(&is_const);
    if (word == "constant") is_const = true;
    const std::string qualified = (is_const ? "const " : "") + type;
    const token after = peek();
    if (after.text == "*") {
      next();
      emit("::metal_emulator::pointer<" + space_of(word) + ", " + qualified + ">");
      if (peek().text == "*" || peek().text == "&" || address_spaces.count(peek().text) != 0) {
        fail("a pointer or reference to a pointer with an address space is not supported");
      }
      if (peek().text == "const") {
        next();
        emit(" const ");
      }
      skip_restrict();
      out_ += ' ';
    } else if (after.text == "&") {
      next();
      if (is_const) {
        emit("const " + type + "& ");
      } else {
        emit("::metal_emulator::place_t<" + space_of(word) + ", " + type + "> ");
      }
    } else if (after.text == "(" && peek(1).text == "&") {
      // A reference to an array: `threadgroup float (&tile)[8][9]`.
      next(), next();
      const std::string name = next().text;
      expect(")");
      emit("::metal_emulator::array<" + space_of(word) + ", " + qualified + extents() + "> " +
           name + " ");
    } else if (word == "threadgroup" && after.what == kind::word) {
      threadgroup_variables(type);
    } else if (word == "constant" && after.what == kind::word) {
      constant_variable(type);
    } else if (word == "device" || word == "threadgroup") {
      fail("a " + word + " type that is neither a pointer nor a reference, before " + after.text);
    } else {
      emit(qualified);
    }
  }

  void skip_restrict() {
    while (peek().text == "restrict" || peek().text == "__restrict" ||
           peek().text == "__restrict__") {
      next();
    }
  }

  /// `[A][B]` as template arguments: `, (A), (B)`.
  std::string extents() {
    std::string list;
    while (peek().text == "[" && peek(1).text != "[") {
      next();
      list += ", (" + raw_until("[", "]") + ")";
    }
    return list;
  }

  void threadgroup_variables(const std::string& type) {
    for (;;) {
      const std::string name = next().text;
      const std::string list = extents();
      emit("const auto " + name + " = ::metal_emulator::threadgroup_variable<" + type + list +
           ">(" + std::to_string(declarations_++) + ", \"" + name + "\")");
      if (peek().text == "=") fail("threadgroup variables can't be initialised in Metal");
      if (peek().text != ",") return;
      next();
      emit(";");
      out_ += ' ';
    }
  }

  void constant_variable(const std::string& type) {
    const std::string name = peek().text;
    if (peek(1).text == "[" && peek(2).text == "[") {
      next();
      std::string content;
      attribute(&content);
      const std::string prefix = "function_constant(";
      if (content.compare(0, prefix.size(), prefix) != 0) {
        fail("unknown attribute " + content + " of " + name);
      }
      const std::string index = content.substr(prefix.size(), content.size() - prefix.size() - 1);
      emit("const ::metal_emulator::function_constant<" + type + "> " + name + "{" + index +
           ", \"" + name + "\"}");
      return;
    }
    emit("const " + type + " ");
  }

  // ---- Kernels ----
  /// After `kernel` or `[[kernel]]`: the signature up to its closing parenthesis.
  void kernel_function(bool is_template) {
    std::string content;
    kernel_signature signature;
    for (const std::string& before : std::exchange(attributes_, {})) {
      note_kernel_attribute(before, signature);
    }
    while (attribute(&content)) note_kernel_attribute(content, signature);
    if (peek().text != "void") fail("expected void after kernel");
    emit(next().text);
    while (attribute(&content)) note_kernel_attribute(content, signature);
    const std::string name = next().text;
    emit(name);
    expect("(");
    out_ += '(';
    parameters(signature);
    while (attribute(&content)) note_kernel_attribute(content, signature);
    if (peek().text == ";") return;  // a declaration
    kernels_[name] = signature;
    if (!is_template && target_ == language::cpp) {
      pending_ = registration(name, name, signature);
      pending_depth_ = braces_.size();
    }
  }

  void note_kernel_attribute(const std::string& content, kernel_signature& signature) {
    const std::string prefix = "max_total_threads_per_threadgroup(";
    if (content.compare(0, prefix.size(), prefix) == 0) {
      signature.max_threads = content.substr(prefix.size(), content.size() - prefix.size() - 1);
    }
  }

  void parameters(kernel_signature& signature) {
    int parentheses = 1, angles = 0;
    std::string attribute_text, content;
    bool any = false;
    for (;;) {
      if (attribute(&content)) {
        attribute_text = content;
        continue;
      }
      const token t = peek();
      if (parentheses == 1 && angles <= 0 && (t.text == "," || t.text == ")")) {
        if (any) {
          if (attribute_text.empty()) fail("a kernel's parameter has no attribute");
          signature.parameters.push_back({attribute_text});
        }
        attribute_text.clear();
        next();
        out_ += t.text;
        if (t.text == ")") return;
        any = false;
        continue;
      }
      any = true;
      if (t.text == "(") ++parentheses;
      if (t.text == ")") --parentheses;
      if (t.text == "<") ++angles;
      if (t.text == ">") --angles;
      step();
    }
  }

  std::string registration(const std::string& host_name, const std::string& function,
                           const kernel_signature& signature) {
    std::string text = " static const ::metal_emulator::registrar kvfit_registrar_" +
                       std::to_string(registrations_++) + "{::metal_emulator::kernel{\"" +
                       host_name + "\", \"" + file_ + "\", {";
    for (const parameter& p : signature.parameters) {
      const std::size_t open = p.attribute.find('(');
      const std::string name = p.attribute.substr(0, open);
      std::string what = "value", index = "0", attribute_name = name;
      if (name == "buffer" || name == "threadgroup") {
        what = name;
        if (open == std::string::npos) fail("[[" + name + "]] has no index");
        index = p.attribute.substr(open + 1, p.attribute.size() - open - 2);
        attribute_name.clear();
      }
      text += "{::metal_emulator::parameter::kind::" + what + ", " + index + ", \"" +
              attribute_name + "\"}, ";
    }
    text += "}, " + (signature.max_threads.empty() ? "1024" : signature.max_threads) +
            ", &::metal_emulator::invoke<&" + function + ">}};";
    return text;
  }

  /// `template [[host_name("n")]] kernel void f<T>(…);` or `… kernel decltype(f<T>) f<T>;`,
  /// `template` having been read. Other explicit instantiations pass unchanged.
  void explicit_instantiation() {
    std::string content, host_name;
    bool is_kernel = false;
    for (;;) {
      if (attribute(&content)) {
        const std::string prefix = "host_name(\"";
        if (content.compare(0, prefix.size(), prefix) == 0) {
          host_name = content.substr(prefix.size(), content.size() - prefix.size() - 2);
        } else if (content == "kernel") {
          is_kernel = true;
        }
      } else if (peek().text == "kernel") {
        next();
        is_kernel = true;
      } else {
        break;
      }
    }
    if (!is_kernel || target_ == language::opencl) {
      emit("template ");
      return;
    }
    if (host_name.empty()) fail("a kernel is instantiated without [[host_name]]");
    std::string function;
    if (peek().text == "decltype") {
      next();
      expect("(");
      function = raw_until("(", ")");
      raw_until("\n", ";");
    } else {
      expect("void");
      function = next().text;
      expect("<");
      function += "<" + raw_until("<", ">") + ">";
      raw_until("\n", ";");
    }
    const std::string name = function.substr(0, function.find_first_of(" <"));
    const auto found = kernels_.find(name);
    if (found == kernels_.end()) fail("a kernel " + name + " is instantiated and not defined");
    out_ += registration(host_name, function, found->second);
  }

  // ---- Everything ----
  void step() {
    if (tokens_[at_].what == kind::blank || tokens_[at_].what == kind::line_marker) {
      copy_blank(tokens_[at_++]);
      return;
    }
    std::string content;
    if (peek().text == "[" && peek(1).text == "[") {
      attribute(&content);
      if (content == "kernel") {
        kernel_function(std::exchange(after_template_, false));
      } else {
        attributes_.push_back(content);  // of a kernel, perhaps; to C++ they say nothing
      }
      return;
    }
    const token t = next();
    if (t.what == kind::number) {
      emit(number_text(t.text));
    } else if (t.what == kind::word) {
      word(t.text);
    } else {
      check_declarator(at_ - 1);
      if (t.text == "{") braces_.push_back('{');
      if (t.text == "}") {
        if (braces_.empty()) fail("a brace too many");
        braces_.pop_back();
      }
      out_ += t.text;
      if (t.text == "}" && !pending_.empty() && braces_.size() == pending_depth_) {
        out_ += std::exchange(pending_, {});
      }
      if (t.text == ";" || t.text == "}") {
        after_template_ = false;
        attributes_.clear();
      }
    }
  }

  /// Metal wants an address space for every pointer and reference. In a formatted source `T* x` is
  /// a declaration and `a * b` a product; that tells them apart without parsing.
  void check_declarator(std::size_t at) {
    const std::string& mark = tokens_[at].text;
    if ((mark != "*" && mark != "&") || at == 0 || at + 2 >= tokens_.size()) return;
    const token& before = tokens_[at - 1];
    if (before.what != kind::word && before.text != ">") return;
    if (tokens_[at + 1].what != kind::blank || tokens_[at + 2].what != kind::word) return;
    int angles = 0;
    for (std::size_t i = at; i-- > 0;) {
      const std::string& text = tokens_[i].text;
      if (text == ">") ++angles;
      if (text == "<" && --angles < 0) break;
      if (angles > 0) continue;
      if (address_spaces.count(text) != 0) return;
      if (text == "," || text == "(" || text == ";" || text == "{" || text == "}") break;
    }
    fail("a pointer or reference without an address space: " + before.text + mark + " " +
         tokens_[at + 2].text);
  }

  void word(const std::string& text) {
    if (text == "kernel") {
      kernel_function(std::exchange(after_template_, false));
    } else if (text == "template" && peek().text != "<" && !after_member()) {
      explicit_instantiation();
    } else if (text == "template") {
      after_template_ = true;
      emit(text);
    } else if (address_spaces.count(text) != 0) {
      address_space(text);
    } else if (target_ == language::opencl && text == "struct") {
      emit(text);
      opencl_structure();
    } else if (target_ == language::opencl && is_vector_type(text) && peek().text == "(") {
      emit("metal_make<" + text + ">");  // OpenCL writes (float2)(x, y)
    } else if (text == "double") {
      fail("Metal has no double");
    } else if (target_ == language::cpp && text == "reinterpret_cast" && peek().text == "<" &&
               casts_to_address_space()) {
      emit("::metal_emulator::pointer_cast");
    } else {
      emit(text);
    }
  }

  /// `x.template f<T>()`: not a declaration.
  bool after_member() {
    std::size_t end = out_.size();
    while (end > 0 && std::isspace(static_cast<unsigned char>(out_[end - 1])) != 0) --end;
    return end > 0 && (out_[end - 1] == '.' || out_[end - 1] == '>' || out_[end - 1] == ':');
  }

  bool casts_to_address_space() {
    for (std::size_t i = 1; peek(i).what == kind::word; ++i) {
      const std::string& text = peek(i).text;
      if (text != "thread" && address_spaces.count(text) != 0) return true;
    }
    return false;
  }

  language target_;
  std::vector<token> tokens_;
  std::string unit_;
  std::string out_;
  std::size_t at_ = 0;
  std::string file_, where_ = "the beginning";
  std::vector<char> braces_;
  bool after_template_ = false;
  std::vector<std::string> attributes_;  // of the declaration that is being read
  std::map<std::string, kernel_signature> kernels_;
  std::string pending_;  // what follows the body of the kernel that is being read
  std::size_t pending_depth_ = 0;
  unsigned declarations_ = 0, registrations_ = 0;
};

}  // namespace

int main(int count, char** arguments) {
  const std::string target = count == 5 ? arguments[1] : "";
  if (target != "c++" && target != "opencl") {
    std::cerr << "usage: kvfit_metal_translate c++|opencl INPUT OUTPUT NAMESPACE\n";
    return 2;
  }
  std::ifstream input(arguments[2], std::ios::binary);
  if (!input) {
    std::cerr << arguments[2] << ": can't be read\n";
    return 1;
  }
  const std::string text((std::istreambuf_iterator<char>(input)), {});
  translator translate(target == "c++" ? language::cpp : language::opencl, tokens_of(text),
                       arguments[4]);
  try {
    const std::string result = translate.run();
    std::ofstream output(arguments[3], std::ios::binary);
    output << result;
    if (!output.flush()) {
      std::cerr << arguments[3] << ": can't be written\n";
      return 1;
    }
  } catch (const failure& f) {
    std::cerr << "after " << translate.where() << ": " << f.message << "\n";
    return 1;
  }
  return 0;
}
