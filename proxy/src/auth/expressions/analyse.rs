//! What an expression refers to, found in its tree once; and the tree changed so that each turn of a loop is paid for.

use super::Problem;
use cel::IdedExpr;
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, operators};

/// Read before each turn of a loop. No expression can spell it.
pub(super) const FUEL_NAME: &str = "@turn";

/// The authorization JSON's top-level keys.
const ROOTS: &[&str] = &["auth", "context", "destination", "metadata", "request", "source"];
/// Names that are no variables: types, and what functions' names begin with.
const OTHER_NAMES: &[&str] = &[
    "base64",
    "bool",
    "bytes",
    "double",
    "duration",
    "google",
    "int",
    "list",
    "map",
    "null_type",
    "optional",
    "string",
    "strings",
    "timestamp",
    "type",
    "uint",
];
/// Nodes within each other. The parser has a limit of its own for what a person can nest; chains of operators count here.
const DEPTH_MAX: usize = 64;

/// For each variable that is named: what of it.
pub(super) struct Wanted {
    pub roots: Vec<(String, Want)>,
}

pub(super) enum Want {
    All,
    Keys(Vec<(String, Want)>),
}

impl Want {
    fn add(&mut self, path: &[String]) {
        match (self, path.split_first()) {
            (Want::All, _) => {}
            (whole, None) => *whole = Want::All,
            (Want::Keys(keys), Some((first, rest))) => entry(keys, first).add(rest),
        }
    }
}

fn entry<'k>(keys: &'k mut Vec<(String, Want)>, name: &str) -> &'k mut Want {
    let at = keys.iter().position(|(key, _)| key == name).unwrap_or_else(|| {
        keys.push((name.to_owned(), Want::Keys(Vec::new())));
        keys.len() - 1
    });
    &mut keys[at].1
}

pub(super) fn analyse(tree: &mut IdedExpr) -> Result<Wanted, Problem> {
    let mut walk = Walk { wanted: Wanted { roots: Vec::new() }, bound: Vec::new() };
    walk.visit(tree, 0)?;
    Ok(walk.wanted)
}

struct Walk {
    wanted: Wanted,
    /// Variables of the loops around.
    bound: Vec<String>,
}

impl Walk {
    fn visit(&mut self, node: &mut IdedExpr, depth: usize) -> Result<(), Problem> {
        if depth > DEPTH_MAX {
            return Err(Problem::new(format!("more than {DEPTH_MAX} operations within each other")));
        }
        if let Some(path) = path_of(node) {
            return self.refer(&path);
        }
        let depth = depth + 1;
        match &mut node.expr {
            Expr::Call(call) => {
                for child in call.target.iter_mut().map(Box::as_mut).chain(&mut call.args) {
                    self.visit(child, depth)?;
                }
                Ok(())
            }
            Expr::Select(select) => self.visit(&mut select.operand, depth),
            Expr::List(list) => list.elements.iter_mut().try_for_each(|element| self.visit(element, depth)),
            Expr::Map(map) => map.entries.iter_mut().try_for_each(|entry| self.entry(&mut entry.expr, depth)),
            Expr::Struct(_) => Err(Problem::new("messages cannot be made here; make a map".to_owned())),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension, depth),
            Expr::Ident(_) | Expr::Literal(_) => Ok(()),
            Expr::Unspecified => Err(Problem::new("an operand is missing".to_owned())),
        }
    }

    fn entry(&mut self, entry: &mut EntryExpr, depth: usize) -> Result<(), Problem> {
        match entry {
            EntryExpr::MapEntry(entry) => {
                self.visit(&mut entry.key, depth)?;
                self.visit(&mut entry.value, depth)
            }
            EntryExpr::StructField(field) => self.visit(&mut field.value, depth),
        }
    }

    fn comprehension(&mut self, comprehension: &mut ComprehensionExpr, depth: usize) -> Result<(), Problem> {
        self.visit(&mut comprehension.iter_range, depth)?;
        self.visit(&mut comprehension.accu_init, depth)?;
        let bound = self.bound.len();
        self.bound.extend([comprehension.iter_var.clone(), comprehension.accu_var.clone()]);
        self.bound.extend(comprehension.iter_var2.clone());
        for part in [&mut comprehension.loop_cond, &mut comprehension.loop_step, &mut comprehension.result] {
            self.visit(part, depth)?;
        }
        self.bound.truncate(bound);
        meter(comprehension);
        Ok(())
    }

    fn refer(&mut self, path: &[String]) -> Result<(), Problem> {
        let name = path[0].as_str();
        if self.bound.iter().any(|bound| bound == name) {
            return Ok(());
        }
        let (absolute, rest) = (name.strip_prefix('.').unwrap_or(name), &path[1..]);
        if ROOTS.contains(&absolute) {
            entry(&mut self.wanted.roots, absolute).add(rest);
            return Ok(());
        }
        if OTHER_NAMES.contains(&absolute) {
            return Ok(());
        }
        Err(Problem::new(format!("nothing is called `{absolute}`; there are: {}", ROOTS.join(", "))))
    }
}

/// `a.b["c"]`, and `has(a.b.c)`, as the names on the way; `None` for anything else.
fn path_of(node: &IdedExpr) -> Option<Vec<String>> {
    let mut path = Vec::new();
    let mut node = node;
    loop {
        match &node.expr {
            Expr::Ident(name) => {
                path.push(name.clone());
                path.reverse();
                return Some(path);
            }
            Expr::Select(select) => {
                path.push(select.field.clone());
                node = &select.operand;
            }
            Expr::Call(call) if call.func_name == operators::INDEX => match call.args.as_slice() {
                [operand, index] => {
                    let Expr::Literal(LiteralValue::String(key)) = &index.expr else { return None };
                    path.push(key.inner().to_owned());
                    node = operand;
                }
                _ => return None,
            },
            _ => return None,
        }
    }
}

/// Makes every turn read [`FUEL_NAME`]. Where the crate appends in place (`map`, `filter`: the condition is a literal)
/// it must still see the shape it knows, so there the step is guarded; elsewhere the condition is.
fn meter(comprehension: &mut ComprehensionExpr) {
    let fuel = || IdedExpr { id: 0, expr: Expr::Ident(FUEL_NAME.to_owned()) };
    let call = |name: &str, args: Vec<IdedExpr>| IdedExpr {
        id: 0,
        expr: Expr::Call(CallExpr { func_name: name.to_owned(), target: None, args }),
    };
    if !matches!(comprehension.loop_cond.expr, Expr::Literal(_)) {
        let condition = std::mem::take(&mut comprehension.loop_cond);
        comprehension.loop_cond = call(operators::LOGICAL_AND, vec![fuel(), condition]);
        return;
    }
    let step = std::mem::take(&mut comprehension.loop_step);
    comprehension.loop_step = match step.expr {
        Expr::Call(mut guarded) if guarded.func_name == operators::CONDITIONAL && guarded.args.len() == 3 => {
            let guard = std::mem::take(&mut guarded.args[0]);
            guarded.args[0] = call(operators::LOGICAL_AND, vec![fuel(), guard]);
            IdedExpr { id: step.id, expr: Expr::Call(guarded) }
        }
        expr => {
            let otherwise = IdedExpr { id: 0, expr: Expr::Ident(comprehension.accu_var.clone()) };
            call(operators::CONDITIONAL, vec![fuel(), IdedExpr { id: step.id, expr }, otherwise])
        }
    };
}
