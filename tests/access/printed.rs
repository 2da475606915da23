//! The printed schema, read back.

use std::{collections::BTreeMap, fmt::Write as _};

use async_graphql::parser::{
    parse_schema,
    types::{
        BaseType, FieldDefinition, InputValueDefinition, Type, TypeDefinition, TypeKind,
        TypeSystemDefinition,
    },
};
use main_webserver::graphql::sdl;

/// A field or an argument.
pub struct Member {
    /// The type's name without lists and exclamation marks.
    pub of: String,
    pub is_described: bool,
    pub arguments: BTreeMap<String, Member>,
    pub doc: String,
}

/// The types with fields, and what is not described.
#[derive(Default)]
pub struct Printed {
    pub outputs: BTreeMap<String, BTreeMap<String, Member>>,
    pub inputs: BTreeMap<String, BTreeMap<String, Member>>,
    pub enums: BTreeMap<String, Vec<String>>,
    pub bare: Vec<String>,
}

fn name_of(ty: &Type) -> String {
    match &ty.base {
        BaseType::Named(name) => name.to_string(),
        BaseType::List(of) => name_of(of),
    }
}

fn argument(argument: &InputValueDefinition) -> (String, Member) {
    let doc = argument.description.as_ref();
    let member = Member {
        of: name_of(&argument.ty.node),
        is_described: doc.is_some(),
        arguments: BTreeMap::new(),
        doc: doc.map(|doc| doc.node.clone()).unwrap_or_default(),
    };
    (argument.name.node.to_string(), member)
}

fn field(field: &FieldDefinition) -> (String, Member) {
    let arguments = field.arguments.iter();
    let doc = field.description.as_ref();
    let member = Member {
        of: name_of(&field.ty.node),
        is_described: doc.is_some(),
        arguments: arguments.map(|given| argument(&given.node)).collect(),
        doc: doc.map(|doc| doc.node.clone()).unwrap_or_default(),
    };
    (field.name.node.to_string(), member)
}

impl Printed {
    pub fn read() -> Self {
        let document = parse_schema(sdl()).expect("the schema is what a schema has to be");
        let mut printed = Self::default();
        for definition in document.definitions {
            if let TypeSystemDefinition::Type(ty) = definition {
                printed.add(&ty.node);
            }
        }
        let mut bare = Vec::new();
        for (ty, fields) in printed.outputs.iter().chain(&printed.inputs) {
            for (name, field) in fields {
                if !field.is_described {
                    bare.push(format!("{ty}.{name}"));
                }
                let silent = field
                    .arguments
                    .iter()
                    .filter(|(_, given)| !given.is_described);
                bare.extend(silent.map(|(given, _)| format!("{ty}.{name}({given}:)")));
            }
        }
        printed.bare.extend(bare);
        printed
    }

    fn add(&mut self, ty: &TypeDefinition) {
        let name = ty.name.node.to_string();
        if ty.description.is_none() {
            self.bare.push(name.clone());
        }
        match &ty.kind {
            TypeKind::Object(object) => {
                let fields = object.fields.iter().map(|it| field(&it.node));
                self.outputs.insert(name, fields.collect());
            }
            TypeKind::Interface(interface) => {
                let fields = interface.fields.iter().map(|it| field(&it.node));
                self.outputs.insert(name, fields.collect());
            }
            TypeKind::InputObject(input) => {
                let fields = input.fields.iter().map(|it| argument(&it.node));
                self.inputs.insert(name, fields.collect());
            }
            TypeKind::Enum(words) => {
                for value in &words.values {
                    if value.node.description.is_none() {
                        self.bare.push(format!("{name}.{}", value.node.value.node));
                    }
                }
                let values = words.values.iter();
                let values = values.map(|value| value.node.value.node.to_string());
                self.enums.insert(name, values.collect());
            }
            TypeKind::Scalar | TypeKind::Union(_) => {}
        }
    }

    /// The fields at the top of one of the three root types.
    pub fn roots(&self, root: &str) -> impl Iterator<Item = (&str, &Member)> {
        self.outputs[root]
            .iter()
            .map(|(name, field)| (&**name, field))
    }

    /// Selects every field of a type that needs no argument, those of objects below it `depth` levels deep.
    pub fn selection(&self, ty: &str, depth: usize) -> String {
        let mut text = String::new();
        for (name, field) in self.outputs.get(ty).into_iter().flatten() {
            if !self.outputs.contains_key(&field.of) {
                write!(text, "{name} ").unwrap();
            } else if depth > 0 {
                let below = self.selection(&field.of, depth - 1);
                write!(text, "{name} {{ {below}}} ").unwrap();
            }
        }
        text
    }
}
