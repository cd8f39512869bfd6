//! All mutants in one program: each behind a switch, and a number says which one is on.
//!
//! An organ with every wrong pipe built in beside the right one, and a stop for each: pull one, and hear who notices.
//!
//! ```text
//!  a == b        ->  (match (&(a), &(b)) { (l, r) => if on(7) { l != r } else { l == r } })
//!  a && b        ->  (if (a) != on(8) { b } else { on(8) })
//!  fn f() { x }  ->  fn f() { if on(9) { return 0; } x }
//! ```
//!
//! The source is edited by ranges of bytes, and what is not edited stays as it was. Operands are evaluated once, in
//! their order, and only when the operator would. A mutant that cannot be written so (`placed` tells which can) has to
//! be built by itself.
//!
//! It must never change what the program does while no switch is on.

use crate::list::{Genre, Mutant};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// What stands in place of a stretch of the source.
enum Piece {
    Text(String),
    /// What only this mutant does.
    Only(usize, String),
    /// A stretch of the source, with the edits in it.
    Part(Range<usize>),
}

struct Edit {
    range: Range<usize>,
    pieces: Vec<Piece>,
    /// The mutants that need it.
    serves: Vec<usize>,
    /// What does not compile in it is the fault of those mutants. Not so where it goes around a whole body.
    tight: bool,
}

/// Which bytes of the rewritten text stand for which mutants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The bytes.
    pub(crate) range: Range<usize>,
    /// The mutants; one alone: the text is what that mutant does.
    pub(crate) mutants: Vec<usize>,
    /// The text is that of one mutant alone; if it does not compile, the others still may.
    pub(crate) own: bool,
}

/// A file with switches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rewritten {
    /// The text.
    pub(crate) text: String,
    /// What stands where; inner ones after outer ones.
    pub(crate) marks: Vec<Mark>,
    /// Numbers of the mutants that are in it.
    pub(crate) placed: BTreeSet<usize>,
    /// Numbers of those that are no Rust: an `||` in a chain that joins a `let` by `&&`.
    pub(crate) chained: BTreeSet<usize>,
}

/// The module that every rewritten package gets as `mutant`: which switch is on, and which were reached.
pub(crate) const SWITCHES: &str = include_str!("switches.rs");

/// Puts those mutants into the text of their file, each with its number.
///
/// # Errors
/// The text is not Rust.
pub(crate) fn rewrite(text: &str, mutants: &[(usize, &Mutant)]) -> Result<Rewritten, String> {
    let file = syn::parse_file(text).map_err(|error| {
        let at = error.span().start();
        format!("line {}: {error}", at.line)
    })?;
    let mut places: BTreeMap<(Genre, usize), Vec<usize>> = BTreeMap::new();
    for (number, mutant) in mutants {
        places
            .entry((mutant.genre, mutant.span.start))
            .or_default()
            .push(*number);
    }
    let replacements = mutants
        .iter()
        .map(|(number, mutant)| (*number, mutant.replacement.as_str()))
        .collect();
    let mut finder = Finder {
        text,
        places,
        replacements,
        edits: vec![],
        chained: BTreeSet::new(),
    };
    finder.visit_file(&file);
    let joins = finder
        .places
        .iter()
        .filter(|((genre, at), _)| *genre == Genre::BinaryOperator && finder.chained.contains(at));
    let chained = joins.flat_map(|(_, numbers)| numbers.iter().copied()).collect();
    let mut edits = finder.edits;
    // Outer ones first; of equal ones that which was found first, which is the outer one.
    edits.sort_by_key(|edit| (edit.range.start, std::cmp::Reverse(edit.range.end)));
    let placed = edits
        .iter()
        .flat_map(|edit| edit.serves.iter().copied())
        .collect();
    let mut rewritten = Rewritten {
        placed,
        chained,
        ..Rewritten::default()
    };
    render(text, &edits, 0, 0..text.len(), &mut rewritten);
    Ok(rewritten)
}

/// Renders a stretch with the edits in it, of those from `first`.
fn render(text: &str, edits: &[Edit], first: usize, range: Range<usize>, into: &mut Rewritten) {
    let mut at = range.start;
    for (index, edit) in edits.iter().enumerate().skip(first) {
        if edit.range.start < at || edit.range.end > range.end {
            continue;
        }
        into.text.push_str(&text[at..edit.range.start]);
        at = edit.range.end;
        let (start, mark) = (into.text.len(), into.marks.len());
        if edit.tight {
            into.marks.push(Mark {
                range: start..start,
                mutants: edit.serves.clone(),
                own: false,
            });
        }
        for piece in &edit.pieces {
            match piece {
                Piece::Text(piece) => into.text.push_str(piece),
                Piece::Only(number, piece) => {
                    let start = into.text.len();
                    into.text.push_str(piece);
                    into.marks.push(Mark {
                        range: start..into.text.len(),
                        mutants: vec![*number],
                        own: true,
                    });
                }
                Piece::Part(part) => render(text, edits, index + 1, part.clone(), into),
            }
        }
        if edit.tight {
            into.marks[mark].range.end = into.text.len();
        }
    }
    into.text.push_str(&text[at..range.end]);
}

struct Finder<'a> {
    text: &'a str,
    places: BTreeMap<(Genre, usize), Vec<usize>>,
    replacements: BTreeMap<usize, &'a str>,
    edits: Vec<Edit>,
    /// Where `&&` joins a `let`: nothing else can stand there.
    chained: BTreeSet<usize>,
}

fn on(number: usize) -> String {
    format!("crate::mutant::on({number})")
}

fn text(text: impl Into<String>) -> Piece {
    Piece::Text(text.into())
}

impl Finder<'_> {
    fn at(&self, genre: Genre, start: usize) -> Vec<usize> {
        self.places.get(&(genre, start)).cloned().unwrap_or_default()
    }

    fn edit(&mut self, range: Range<usize>, pieces: Vec<Piece>, serves: Vec<usize>) {
        self.edits.push(Edit {
            range,
            pieces,
            serves,
            tight: true,
        });
    }

    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let (Some(first), Some(last)) = (block.stmts.first(), block.stmts.last()) else {
            return;
        };
        let body = first.span().byte_range().start..last.span().byte_range().end;
        let numbers = self.at(Genre::FnValue, body.start);
        if let Some(token) = signature.constness {
            // A switch is not constant.
            if self.places.keys().any(|(_, at)| body.contains(at)) {
                let range = token.span().byte_range();
                self.edits.push(Edit {
                    range,
                    pieces: vec![],
                    serves: vec![],
                    tight: false,
                });
            }
        }
        if numbers.is_empty() {
            return;
        }
        let mut pieces = vec![];
        for number in &numbers {
            pieces.push(text(format!("if {} {{ return ", on(*number))));
            pieces.push(Piece::Only(*number, self.replacements[number].to_owned()));
            pieces.push(text("; } "));
        }
        pieces.push(Piece::Part(body.clone()));
        self.edits.push(Edit {
            range: body,
            pieces,
            serves: numbers,
            tight: false,
        });
    }

    fn binary(&mut self, expression: &syn::ExprBinary) {
        use syn::BinOp as Op;
        let operator = expression.op.span().byte_range();
        let numbers = self.at(Genre::BinaryOperator, operator.start);
        if numbers.is_empty() || self.chained.contains(&operator.start) {
            return;
        }
        let part = |side: &syn::Expr| Piece::Part(side.span().byte_range());
        let (left, right) = (part(&expression.left), part(&expression.right));
        let whole = expression.span().byte_range();
        let own = &self.text[operator];
        let choice = |write: &dyn Fn(&str) -> String| {
            let mut pieces = vec![];
            for number in &numbers {
                pieces.push(text(format!("if {} {{ ", on(*number))));
                pieces.push(Piece::Only(*number, write(self.replacements[number])));
                pieces.push(text(" } else "));
            }
            pieces.push(text(format!("{{ {} }}", write(own))));
            pieces
        };
        let mut pieces = vec![];
        match expression.op {
            Op::And(_) | Op::Or(_) => {
                let on = on(numbers[0]);
                let (same, otherwise) = match expression.op {
                    Op::And(_) => ("!=", on.clone()),
                    _ => ("==", format!("!{on}")),
                };
                pieces.extend([text("(if ("), left, text(format!(") {same} {on} {{ ")), right]);
                pieces.push(text(format!(" }} else {{ {otherwise} }})")));
            }
            Op::Eq(_) | Op::Ne(_) | Op::Lt(_) | Op::Le(_) | Op::Gt(_) | Op::Ge(_) => {
                pieces.extend([
                    text("(match (&("),
                    left,
                    text("), &("),
                    right,
                    text(")) { (l, r) => "),
                ]);
                pieces.extend(choice(&|operator| format!("l {operator} r")));
                pieces.push(text(" })"));
            }
            Op::AddAssign(_)
            | Op::SubAssign(_)
            | Op::MulAssign(_)
            | Op::DivAssign(_)
            | Op::RemAssign(_)
            | Op::BitAndAssign(_)
            | Op::BitOrAssign(_)
            | Op::BitXorAssign(_)
            | Op::ShlAssign(_)
            | Op::ShrAssign(_) => {
                // The place is written once for each: what is in it has no effects.
                let place = &self.text[expression.left.span().byte_range()];
                pieces.extend([text("({ let r = "), right, text("; ")]);
                pieces.extend(choice(&|operator| format!("{place} {operator} r;")));
                pieces.push(text(" })"));
            }
            _ => {
                pieces.extend([
                    text("(match (("),
                    left,
                    text("), ("),
                    right,
                    text(")) { (l, r) => "),
                ]);
                pieces.extend(choice(&|operator| format!("l {operator} r")));
                pieces.push(text(" })"));
            }
        }
        self.edit(whole, pieces, numbers);
    }

    /// Notes every `&&` of a chain that has a `let` in it.
    fn chain(&mut self, expression: &syn::ExprBinary) {
        let (mut operators, mut found) = (vec![], false);
        let mut open = vec![expression];
        while let Some(one) = open.pop() {
            operators.push(one.op.span().byte_range().start);
            for side in [&*one.left, &*one.right] {
                match side {
                    syn::Expr::Let(_) => found = true,
                    syn::Expr::Binary(inner) if matches!(inner.op, syn::BinOp::And(_)) => open.push(inner),
                    _ => {}
                }
            }
        }
        if found {
            self.chained.extend(operators);
        }
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_expr_binary(&mut self, expression: &'ast syn::ExprBinary) {
        if matches!(expression.op, syn::BinOp::And(_)) {
            self.chain(expression);
        }
        self.binary(expression);
        visit::visit_expr_binary(self, expression);
    }

    fn visit_expr_unary(&mut self, expression: &'ast syn::ExprUnary) {
        let operator = expression.op.span().byte_range();
        let numbers = self.at(Genre::UnaryOperator, operator.start);
        if let Some(number) = numbers.first() {
            let pieces = vec![
                text("(match ("),
                Piece::Part(expression.expr.span().byte_range()),
                text(format!(") {{ v => if {} {{ ", on(*number))),
                Piece::Only(*number, "v".to_owned()),
                text(format!(" }} else {{ {}v }} }})", &self.text[operator])),
            ];
            self.edit(expression.span().byte_range(), pieces, numbers);
        }
        visit::visit_expr_unary(self, expression);
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        let numbers = self.at(Genre::MatchArm, arm.span().byte_range().start);
        if let (Some(number), None) = (numbers.first(), &arm.guard) {
            let pattern = arm.pat.span().byte_range();
            let pieces = vec![
                Piece::Part(pattern.clone()),
                text(format!(" if !{}", on(*number))),
            ];
            self.edit(pattern, pieces, numbers);
        }
        if let Some((_, guard)) = &arm.guard {
            let range = guard.span().byte_range();
            let numbers = self.at(Genre::MatchArmGuard, range.start);
            let of = |what| {
                numbers
                    .iter()
                    .copied()
                    .find(|number| self.replacements[number] == what)
            };
            if let (Some(always), Some(never)) = (of("true"), of("false")) {
                let pieces = vec![
                    text(format!("{} || (!{} && (", on(always), on(never))),
                    Piece::Part(range.clone()),
                    text("))"),
                ];
                self.edit(range, pieces, numbers);
            }
        }
        visit::visit_arm(self, arm);
    }

    fn visit_expr_struct(&mut self, expression: &'ast syn::ExprStruct) {
        if let Some(base) = &expression.rest {
            let base = &self.text[base.span().byte_range()];
            let path = &self.text[expression.path.span().byte_range()];
            for field in &expression.fields {
                let range = field.span().byte_range();
                let numbers = self.at(Genre::StructField, range.start);
                let (Some(number), syn::Member::Named(name)) = (numbers.first(), &field.member) else {
                    continue;
                };
                let pieces = vec![
                    text(format!("{name}: if {} {{ ", on(*number))),
                    Piece::Only(
                        *number,
                        format!("let base: {path} = ::core::clone::Clone::clone(&({base})); base.{name}"),
                    ),
                    text(" } else { "),
                    Piece::Part(field.expr.span().byte_range()),
                    text(" }"),
                ];
                self.edit(range, pieces, numbers);
            }
        }
        visit::visit_expr_struct(self, expression);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutant(source: &str, find: &str, replacement: &str, genre: Genre) -> Mutant {
        let start = source.find(find).unwrap();
        Mutant {
            file: "x.rs".to_owned(),
            span: start..start + find.len(),
            replacement: replacement.to_owned(),
            genre,
            function: String::new(),
            change: String::new(),
            line: 1,
            text: String::new(),
            ordinal: 0,
        }
    }

    fn rewritten(source: &str, mutants: &[Mutant]) -> Rewritten {
        let numbered: Vec<(usize, &Mutant)> = mutants.iter().enumerate().collect();
        let rewritten = rewrite(source, &numbered).unwrap();
        syn::parse_file(&rewritten.text).unwrap_or_else(|error| panic!("{error}: {}", rewritten.text));
        rewritten
    }

    #[test]
    fn every_kind_of_mutant_is_put_behind_its_switch() {
        let cases = [
            (
                "fn f() -> u8 { 7 }",
                "7",
                "0",
                Genre::FnValue,
                "{ if on(0) { return 0; } 7 }",
            ),
            (
                "fn f() -> bool { a <= b }",
                "<=",
                ">",
                Genre::BinaryOperator,
                "(match (&(a), &(b)) { (l, r) => if on(0) { l > r } else { l <= r } })",
            ),
            (
                "fn f() -> bool { a && b }",
                "&&",
                "||",
                Genre::BinaryOperator,
                "(if (a) != on(0) { b } else { on(0) })",
            ),
            (
                "fn f() -> bool { a || b }",
                "||",
                "&&",
                Genre::BinaryOperator,
                "(if (a) == on(0) { b } else { !on(0) })",
            ),
            (
                "fn f() -> u8 { a + b }",
                "+",
                "-",
                Genre::BinaryOperator,
                "(match ((a), (b)) { (l, r) => if on(0) { l - r } else { l + r } })",
            ),
            (
                "fn f() { a += b; }",
                "+=",
                "-=",
                Genre::BinaryOperator,
                "({ let r = b; if on(0) { a -= r; } else { a += r; } })",
            ),
            (
                "fn f() -> bool { !a }",
                "!",
                "",
                Genre::UnaryOperator,
                "(match (a) { v => if on(0) { v } else { !v } })",
            ),
            (
                "fn f() { match a { 1 => b(), _ => c() } }",
                "1 => b(),",
                "",
                Genre::MatchArm,
                "1 if !on(0) => b(),",
            ),
            (
                "fn f() -> S { S { x: 1, ..d() } }",
                "x: 1",
                "",
                Genre::StructField,
                "x: if on(0) { let base: S = ::core::clone::Clone::clone(&(d())); base.x } else { 1 }",
            ),
        ];
        for (source, find, replacement, genre, expected) in cases {
            let rewritten = rewritten(source, &[mutant(source, find, replacement, genre)]);
            let text = rewritten.text.replace("crate::mutant::", "");
            assert!(text.contains(expected), "{text}");
            assert!(rewritten.placed.contains(&0));
        }
    }

    #[test]
    fn mutants_inside_mutants_are_all_there() {
        let source = "fn f() -> bool { a && (b == 1 || !c) }";
        let mutants = [
            mutant(source, "a && (b == 1 || !c)", "true", Genre::FnValue),
            mutant(source, "&&", "||", Genre::BinaryOperator),
            mutant(source, "==", "!=", Genre::BinaryOperator),
            mutant(source, "||", "&&", Genre::BinaryOperator),
            mutant(source, "!", "", Genre::UnaryOperator),
        ];
        let rewritten = rewritten(source, &mutants);
        assert_eq!(rewritten.placed.len(), 5);
        let switches: Vec<usize> = (0..5)
            .filter(|number| rewritten.text.contains(&format!("on({number})")))
            .collect();
        assert_eq!(switches, [0, 1, 2, 3, 4], "{}", rewritten.text);
        for mark in rewritten.marks.iter().filter(|mark| mark.own) {
            let own = &rewritten.text[mark.range.clone()];
            assert!(!own.contains("on("), "what one mutant does is its own: {own}");
        }
    }

    #[test]
    fn a_guard_is_always_or_never_or_itself() {
        let source = "fn f() { match a { x if x > 1 => b(), _ => c() } }";
        let guard = |replacement| mutant(source, "x > 1", replacement, Genre::MatchArmGuard);
        let rewritten = rewritten(source, &[guard("true"), guard("false")]);
        let text = rewritten.text.replace("crate::mutant::", "");
        assert!(text.contains("if on(0) || (!on(1) && (x > 1)) =>"), "{text}");
    }

    #[test]
    fn in_a_chain_with_a_let_nothing_but_and_is_rust() {
        let source = "fn f() { if a && let Some(x) = b && c { d(x) } }";
        let rewritten = rewritten(source, &[mutant(source, "&&", "||", Genre::BinaryOperator)]);
        assert_eq!(rewritten.text, source);
        assert!(rewritten.placed.is_empty() && rewritten.chained.contains(&0));
    }

    #[test]
    fn a_constant_function_with_a_switch_in_it_is_constant_no_more() {
        let source = "const fn f() -> u8 { 7 }\nconst fn g() {}\n";
        let rewritten = rewritten(source, &[mutant(source, "7", "0", Genre::FnValue)]);
        assert!(rewritten.text.starts_with(" fn f()"), "{}", rewritten.text);
        assert!(rewritten.text.contains("const fn g()"));
    }
}
