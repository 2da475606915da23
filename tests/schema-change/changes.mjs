// What a change of the schema is to clients that were written for the one before.
import { createRequire } from 'node:module';

const require = createRequire(new URL('../browser/package.json', import.meta.url));
const graphql = require('graphql');
const { findBreakingChanges, findDangerousChanges, isIntrospectionType, isInterfaceType, isObjectType } = graphql;

export const { buildSchema } = graphql;

/** The fields of each type an answer can have. */
function shown(schema) {
  const types = Object.values(schema.getTypeMap()).filter((type) => !isIntrospectionType(type));
  const fields = (type) => (isObjectType(type) || isInterfaceType(type) ? Object.keys(type.getFields()) : []);
  return new Map(types.map((type) => [type.name, fields(type)]));
}

/**
 * Sorts the differences of two schemas, given as texts: breaking ones fail operations that were valid, dangerous ones may surprise
 * clients that do not expect what is new, safe ones are seen only by who asks for them.
 */
export function changes(before, after) {
  const [old, now] = [before, after].map((text) => buildSchema(text));
  const [known, today] = [shown(old), shown(now)];
  const safe = [];
  for (const [type, fields] of today) {
    if (!known.has(type)) safe.push(`${type} was added.`);
    else safe.push(...fields.filter((field) => !known.get(type).includes(field)).map((field) => `${type}.${field} was added.`));
  }
  const described = (found) => found.map(({ description }) => description);
  return { safe, dangerous: described(findDangerousChanges(old, now)), breaking: described(findBreakingChanges(old, now)) };
}

/** The breaking changes that nobody has agreed to. */
export function refused(breaking, allowed) {
  const lines = allowed.split('\n').map((line) => line.trim());
  const agreed = new Set(lines.filter((line) => line && !line.startsWith('#')));
  return breaking.filter((change) => !agreed.has(change));
}
