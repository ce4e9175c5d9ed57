//! Constants of the kernels, from their `*_constants.cuh` headers into Rust: CUDA and Rust have one source for a number.
//!
//! Such a header holds constants, and functions of one expression, each with a comment. `int` becomes `usize`, `uint32_t`
//! becomes `u32`, and `int32_t`, which alone may be negative, `i32`. Whatever else stands there is refused: a number that is left out would have to be written twice.

use std::collections::HashMap;
use std::path::Path;

/// What a header's name ends with.
pub const SUFFIX: &str = "_constants.cuh";

/// A Rust module with what the header of this name and text declares.
///
/// # Errors
/// The place of what cannot be read, and why.
pub fn module(path: &Path, text: &str) -> Result<String, String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let module = name.strip_suffix(SUFFIX).unwrap_or(&name);
    let items = items(text).map_err(|(line, reason)| format!("{}:{line}: {reason}", path.display()))?;
    let head: Vec<_> = text.lines().map_while(|line| line.strip_prefix("//")).map(str::trim).collect();
    Ok(format!("#[doc = {:?}]\npub mod {module} {{\n{items}}}\n", head.join(" ")))
}

/// A line, and what is wrong there.
type Fault = (usize, String);

fn items(text: &str) -> Result<String, Fault> {
    let mut reader = Reader { tokens: tokens(text)?, next: 0, known: HashMap::new(), signed: false };
    let mut items = String::new();
    while let Some(token) = reader.tokens.get(reader.next) {
        let line = token.line;
        let documentation = token.comment.clone();
        if documentation.is_empty() {
            return Err((line, "a constant without a comment on the line above".into()));
        }
        items += &format!("#[doc = {documentation:?}]\n");
        items += &reader.item()?;
    }
    Ok(items)
}

#[derive(Clone, Debug)]
struct Token {
    text: String,
    line: usize,
    /// The comment that ends on the line above.
    comment: String,
}

fn tokens(text: &str) -> Result<Vec<Token>, Fault> {
    let mut tokens = Vec::new();
    let mut comment = String::new();
    for (number, line) in text.lines().enumerate() {
        let (line_number, trimmed) = (number + 1, line.trim());
        if let Some(words) = trimmed.strip_prefix("//") {
            comment += if comment.is_empty() { "" } else { " " };
            comment += words.trim();
            continue;
        }
        if trimmed.starts_with("#include ") || trimmed == "#pragma once" || trimmed.is_empty() {
            comment.clear();
            continue;
        }
        let mut rest = trimmed;
        while !rest.is_empty() {
            let length = token_length(rest).ok_or_else(|| (line_number, format!("cannot read `{rest}`")))?;
            let (token, after) = rest.split_at(length);
            tokens.push(Token {
                text: token.into(),
                line: line_number,
                comment: std::mem::take(&mut comment),
            });
            rest = after.trim_start();
        }
    }
    Ok(tokens)
}

fn token_length(text: &str) -> Option<usize> {
    let word =
        text.find(|letter: char| letter != '_' && !letter.is_ascii_alphanumeric()).unwrap_or(text.len());
    if word > 0 {
        return Some(word);
    }
    let symbols = ["==", "!=", "<=", ">=", "&&", "||"];
    if symbols.iter().any(|symbol| text.starts_with(symbol)) {
        return Some(2);
    }
    text.starts_with(|letter| "(){},;=?:<>+-*/%".contains(letter)).then_some(1)
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Number,
    Function,
}

struct Reader {
    tokens: Vec<Token>,
    next: usize,
    known: HashMap<String, Known>,
    /// Whether the type read last has negative numbers.
    signed: bool,
}

/// Operators that bind from left to right, the weakest first. Those of Rust bind alike.
const OPERATORS: [&[&str]; 6] =
    [&["||"], &["&&"], &["==", "!="], &["<", ">", "<=", ">="], &["+", "-"], &["*", "/", "%"]];

impl Reader {
    fn peek(&self) -> &str {
        self.tokens.get(self.next).map_or("the end", |token| &token.text)
    }

    fn fault<T>(&self, reason: String) -> Result<T, Fault> {
        let at = self.tokens.get(self.next).or(self.tokens.last());
        Err((at.map_or(0, |token| token.line), reason))
    }

    fn take(&mut self) -> String {
        let text = self.peek().to_owned();
        self.next += 1;
        text
    }

    fn expect(&mut self, text: &str) -> Result<(), Fault> {
        if self.peek() != text {
            return self.fault(format!("`{}` where `{text}` is expected", self.peek()));
        }
        self.next += 1;
        Ok(())
    }

    fn expect_type(&mut self) -> Result<&'static str, Fault> {
        let kind = match self.peek() {
            "int" => "usize",
            "uint32_t" => "u32",
            "int32_t" => "i32",
            other => return self.fault(format!("`{other}` where int, uint32_t or int32_t is expected")),
        };
        self.signed = kind == "i32";
        self.next += 1;
        Ok(kind)
    }

    fn name(&mut self) -> Result<String, Fault> {
        let is_name = self.peek().starts_with(|letter: char| letter == '_' || letter.is_ascii_alphabetic());
        if !is_name || self.known.contains_key(self.peek()) {
            return self.fault(format!("`{}` where a new name is expected", self.peek()));
        }
        Ok(self.take())
    }

    fn item(&mut self) -> Result<String, Fault> {
        // For nvcc: functions that kernels may use, too.
        let is_for_both = self.peek() == "__host__";
        if is_for_both {
            self.next += 1;
            self.expect("__device__")?;
        }
        self.expect("constexpr")?;
        let kind = self.expect_type()?;
        let name = self.name()?;
        if self.peek() == "=" && !is_for_both {
            self.next += 1;
            let value = self.expression()?;
            self.expect(";")?;
            self.known.insert(name.clone(), Known::Number);
            return Ok(format!("pub const {name}: {kind} = {value};\n"));
        }
        if !is_for_both {
            return self
                .fault(format!("`{name}` is a function without __host__ __device__, which kernels need"));
        }
        self.expect("(")?;
        let mut parameters = Vec::new();
        let outside = self.known.clone();
        while self.peek() != ")" {
            if !parameters.is_empty() {
                self.expect(",")?;
            }
            let kind = self.expect_type()?;
            let parameter = self.name()?;
            parameters.push(format!("{parameter}: {kind}"));
            self.known.insert(parameter, Known::Number);
        }
        for text in [")", "{", "return"] {
            self.expect(text)?;
        }
        let value = self.expression()?;
        self.expect(";")?;
        self.expect("}")?;
        self.known = outside;
        self.known.insert(name.clone(), Known::Function);
        let parameters = parameters.join(", ");
        Ok(format!("#[must_use]\npub const fn {name}({parameters}) -> {kind} {{\n    {value}\n}}\n"))
    }

    fn expression(&mut self) -> Result<String, Fault> {
        let condition = self.operation(0)?;
        if self.peek() != "?" {
            return Ok(condition);
        }
        self.next += 1;
        let yes = self.expression()?;
        self.expect(":")?;
        let no = self.expression()?;
        let no = if no.starts_with("if ") { no } else { format!("{{ {no} }}") };
        Ok(format!("if {condition} {{ {yes} }} else {no}"))
    }

    fn operation(&mut self, level: usize) -> Result<String, Fault> {
        let Some(operators) = OPERATORS.get(level) else { return self.operand() };
        let mut text = self.operation(level + 1)?;
        while operators.contains(&self.peek()) {
            let operator = self.take();
            text = format!("{text} {operator} {}", self.operation(level + 1)?);
        }
        Ok(text)
    }

    fn operand(&mut self) -> Result<String, Fault> {
        if self.signed && self.peek() == "-" {
            self.next += 1;
            return Ok(format!("-{}", self.operand()?));
        }
        if self.peek() == "(" {
            self.next += 1;
            let inner = self.expression()?;
            self.expect(")")?;
            return Ok(format!("({inner})"));
        }
        if !self.peek().is_empty() && self.peek().bytes().all(|digit| digit.is_ascii_digit()) {
            let number = self.take();
            // C++ would read it as octal.
            if number.len() > 1 && number.starts_with('0') {
                self.next -= 1;
                return self.fault(format!("`{number}` starts with 0"));
            }
            return Ok(number);
        }
        match self.known.get(self.peek()).copied() {
            None => self.fault(format!("`{}` is not a number or a name from above", self.peek())),
            Some(Known::Number) => Ok(self.take()),
            Some(Known::Function) => {
                let name = self.take();
                self.expect("(")?;
                let mut arguments = Vec::new();
                while self.peek() != ")" {
                    if !arguments.is_empty() {
                        self.expect(",")?;
                    }
                    arguments.push(self.expression()?);
                }
                self.next += 1;
                Ok(format!("{name}({})", arguments.join(", ")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, String> {
        module(Path::new("folder/some_constants.cuh"), text)
    }

    #[test]
    fn constants_and_functions_become_rust() {
        let text = "// Some sizes.\n#pragma once\n#include \"arch/kernel.cuh\"\n\n// Rows.\nconstexpr int ROWS = 64;\n\
                    // A code\n// of two lines.\nconstexpr uint32_t CODE = 2;\n\
                    // Bytes.\n__host__ __device__ constexpr int bytes(int rank, int size) {\n    return rank == 16 || size < 2\n\
                    ? ROWS * (rank + size) : ROWS / 2 - 1;\n}\n// All.\nconstexpr int ALL = 2 * bytes(ROWS, 4);\n";
        let expected = "#[doc = \"Some sizes.\"]\npub mod some {\n#[doc = \"Rows.\"]\npub const ROWS: usize = 64;\n\
                        #[doc = \"A code of two lines.\"]\npub const CODE: u32 = 2;\n#[doc = \"Bytes.\"]\n#[must_use]\n\
                        pub const fn bytes(rank: usize, size: usize) -> usize {\n    \
                        if rank == 16 || size < 2 { ROWS * (rank + size) } else { ROWS / 2 - 1 }\n}\n\
                        #[doc = \"All.\"]\npub const ALL: usize = 2 * bytes(ROWS, 4);\n}\n";
        assert_eq!(read(text).unwrap(), expected);
    }

    #[test]
    fn signed_numbers_may_be_negative() {
        let rust =
            read("// Ends.\nconstexpr int32_t LAST = 2;\n// First.\nconstexpr int32_t FIRST = -LAST - -1;\n")
                .unwrap();
        assert!(rust.contains("pub const FIRST: i32 = -LAST - -1;"), "{rust}");
    }

    #[test]
    fn a_ternary_may_stand_in_another_and_in_brackets() {
        let text = "// One.\n__host__ __device__ constexpr int one(int a) { return a < 1 ? 2 : a < 3 ? 4 : 5 + (a > 8 ? 6 : 7); }\n";
        let rust = read(text).unwrap();
        let expected = "if a < 1 { 2 } else if a < 3 { 4 } else { 5 + (if a > 8 { 6 } else { 7 }) }";
        assert!(rust.contains(expected), "{rust}");
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_place() {
        for (line, says) in [
            ("constexpr int A = 0x40;", "`0x40` is not a number"),
            ("constexpr int A = 010;", "`010` starts with 0"),
            ("constexpr int A = 64u;", "`64u` is not a number"),
            ("constexpr int A = -1;", "`-` is not a number"),
            ("constexpr uint32_t A = -1;", "`-` is not a number"),
            ("constexpr int A = sizeof(int);", "`sizeof` is not a number"),
            ("constexpr int A = B;", "`B` is not a number or a name from above"),
            ("constexpr int A = 1 << 2;", "`<` is not a number"),
            ("constexpr float A = 1;", "`float` where int, uint32_t or int32_t"),
            ("constexpr int A = 1, B = 2;", "`,` where `;`"),
            ("constexpr int A = 1.5;", "cannot read `.5;`"),
            ("const int A = 1;", "`const` where `constexpr`"),
            ("#define A 1", "cannot read `#define A 1`"),
            ("static_assert(1 == 1);", "`static_assert` where `constexpr`"),
            ("template <int A> constexpr int B = A;", "`template` where `constexpr`"),
            (
                "__host__ __device__ constexpr int a(int b) { return b; } constexpr int c = 1;",
                "without a comment",
            ),
            ("constexpr int a(int b) { return b; }", "without __host__ __device__"),
            ("__host__ __device__ constexpr int A = 1;", "`=` where `(`"),
            ("__device__ constexpr int a(int b) { return b; }", "`__device__` where `constexpr`"),
            ("__host__ __device__ constexpr int a(int b) { int c = b; return c; }", "`int` where `return`"),
            ("constexpr int A = 1", "`the end` where `;`"),
            ("__host__ __device__ constexpr int a(int a", "`the end` where `,`"),
        ] {
            let message = read(&format!("// What.\n#pragma once\n// It.\n{line}\n")).unwrap_err();
            assert!(message.starts_with("folder/some_constants.cuh:4: "), "{message}");
            assert!(message.contains(says), "{line}: {message}");
        }
        let message = read("// What.\n#pragma once\nconstexpr int A = 1;\n").unwrap_err();
        assert!(message.contains(":3: a constant without a comment"), "{message}");
        let twice = "// A.\nconstexpr int A = 1;\n// A.\nconstexpr int A = 2;\n";
        assert!(read(twice).unwrap_err().contains(":4: `A` where a new name"), "{:?}", read(twice));
    }
}
