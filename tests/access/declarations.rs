//! The schema has nothing that no declaration stands for, no declaration stands for nothing, and everything is described.

use std::collections::{BTreeMap, BTreeSet};

use main_webserver::graphql::{
    access::{ARGUMENTS, Asker, PARTS, Root, TYPES, operations},
    list::{
        lists::LISTS,
        noun::{Audience, Noun},
    },
};

use super::printed::Printed;

/// Every field of a type that follows from an entity's declaration, with who sees it.
fn declared() -> BTreeMap<(String, String), Audience> {
    let mut all = BTreeMap::new();
    for noun in LISTS.iter().map(|entry| (entry.noun)()) {
        let mut add = |ty: &str, field: &str, audience| {
            let ty = format!("{}{ty}", noun.name);
            all.insert((ty, field.to_owned()), audience);
        };
        for field in noun.fields {
            add("", field.name, field.audience);
            if field.is_filtered {
                add("Filter", field.name, field.audience);
            }
            if field.is_measured {
                add("Aggregate", field.name, field.audience);
            }
            if field.is_grouped {
                add("Group", field.name, field.audience);
                add("Aggregate", "group", Audience::Everyone);
                add("GroupBy", "field", Audience::Everyone);
                add("GroupBy", "every", Audience::Everyone);
            }
        }
        for link in noun.links {
            add("", link.name, Audience::Everyone);
            if link.is_filtered {
                add("Filter", link.name, Audience::Everyone);
            }
        }
        for many in noun.many {
            add("", many.name, Audience::Everyone);
        }
        for (ty, field) in [
            ("Connection", "edges"),
            ("Connection", "nodes"),
            ("Connection", "pageInfo"),
            ("Connection", "totalCount"),
            ("Edge", "cursor"),
            ("Edge", "node"),
            ("Aggregate", "count"),
            ("Filter", "and"),
            ("Filter", "or"),
            ("Filter", "not"),
            ("Order", "field"),
            ("Order", "direction"),
            ("Order", "nulls"),
        ] {
            add(ty, field, Audience::Everyone);
        }
    }
    for (ty, field, audience) in PARTS {
        all.insert(((*ty).to_owned(), (*field).to_owned()), *audience);
    }
    all
}

fn whole_types() -> BTreeMap<&'static str, Audience> {
    TYPES.iter().copied().collect()
}

const ROOTS: [Root; 3] = [Root::Query, Root::Mutation, Root::Subscription];

#[test]
fn everything_in_the_schema_has_a_declared_access_and_nothing_else_has() {
    let printed = Printed::read();
    let (declared, types) = (declared(), whole_types());
    let mut wrong = Vec::new();
    let mut left: BTreeSet<_> = declared.keys().cloned().collect();
    let mut types_left: BTreeSet<_> = types.keys().copied().collect();
    let roots = ROOTS.map(|root| format!("{root:?}"));
    for (ty, fields) in printed.outputs.iter().chain(&printed.inputs) {
        for (name, field) in fields {
            let is_known = roots.contains(ty)
                || left.remove(&(ty.clone(), name.clone()))
                || types.contains_key(&**ty);
            if !is_known {
                wrong.push(format!("{ty}.{name}: nobody says who may see it"));
            }
            for given in field.arguments.keys() {
                if !ARGUMENTS.contains(&&**given) {
                    wrong.push(format!("{ty}.{name}({given}:): no declared argument"));
                }
            }
        }
        types_left.remove(&**ty);
    }
    wrong.extend(
        left.iter()
            .map(|(ty, field)| format!("{ty}.{field}: declared, and not in the schema")),
    );
    wrong.extend(
        types_left
            .iter()
            .map(|ty| format!("{ty}: declared, and not in the schema")),
    );

    let mut operations: BTreeSet<(Root, String)> = operations()
        .into_iter()
        .map(|it| (it.root, it.name.into_owned()))
        .collect();
    for root in ROOTS {
        for (name, _) in printed.roots(&format!("{root:?}")) {
            if !operations.remove(&(root, name.to_owned())) {
                wrong.push(format!("{root:?}.{name}: nobody says who may ask for it"));
            }
        }
    }
    wrong.extend(
        operations
            .iter()
            .map(|(root, name)| format!("{root:?}.{name}: declared, and not in the schema")),
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn everything_in_the_schema_is_described() {
    let bare = Printed::read().bare;
    assert!(bare.is_empty(), "not described: {bare:#?}");
}

/// What only administrators see stands behind nothing that others may ask for, and says so.
#[test]
fn what_is_for_administrators_stands_behind_what_is_for_administrators() {
    let printed = Printed::read();
    let (declared, types) = (declared(), whole_types());
    let askers: BTreeMap<(String, String), Asker> = operations()
        .into_iter()
        .map(|it| {
            (
                (format!("{:?}", it.root), it.name.into_owned()),
                it.access.asker(),
            )
        })
        .collect();
    let is_admins = |ty: &String, field: &String| {
        let key = (ty.clone(), field.clone());
        types.get(&**ty) == Some(&Audience::Admins)
            || declared.get(&key) == Some(&Audience::Admins)
            || askers.get(&key) == Some(&Asker::Admin)
    };
    let mut wrong = Vec::new();
    for (ty, fields) in printed.outputs.iter().chain(&printed.inputs) {
        for (name, field) in fields {
            let is_declared = declared.get(&(ty.clone(), name.clone())) == Some(&Audience::Admins);
            let is_asked = askers.get(&(ty.clone(), name.clone())) == Some(&Asker::Admin);
            if (is_declared || is_asked) && !field.doc.contains("or administrators") {
                wrong.push(format!(
                    "{ty}.{name}: its description does not say that it is for administrators"
                ));
            }
            let below = field
                .arguments
                .values()
                .map(|given| &given.of)
                .chain([&field.of]);
            for of in below.filter(|of| types.get(&***of) == Some(&Audience::Admins)) {
                if !is_admins(ty, name) {
                    wrong.push(format!(
                        "{ty}.{name}: leads to {of}, which is for administrators"
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn an_entity_has_its_id_first_and_its_owner_where_the_policy_looks_for_it() {
    use main_webserver::graphql::list::noun::Kind;
    for noun in LISTS.iter().map(|entry| (entry.noun)()) {
        let Noun { name, fields, .. } = noun;
        assert!(matches!(fields[0].kind, Kind::Id(_)), "{name}");
        let names = fields.iter().map(|field| field.name);
        let names = names.chain(noun.links.iter().map(|link| link.name));
        let names = names.chain(noun.many.iter().map(|many| many.name));
        let mut seen = BTreeSet::new();
        for field in names {
            assert!(seen.insert(field), "{name}.{field} is declared twice");
        }
        let links = noun.links.iter().filter(|link| link.name == "owner");
        for link in links {
            assert_eq!(noun.owner, Some(link.column), "{name}");
        }
    }
}
