// The API's own document as a page: no framework, nothing from elsewhere.

import { byId, element } from "./elements.js";

const api = await (await fetch("/openapi.json")).json();
const named = (schema) => (schema?.$ref ? api.components.schemas[schema.$ref.split("/").at(-1)] : schema);

function fields(schema) {
  const known = named(schema);
  if (!known?.properties) return null;
  const lines = Object.entries(known.properties).map(([name, field]) => {
    const kind = field.enum?.join(" | ") ?? field.const ?? field.type ?? field.anyOf?.map((each) => each.$ref?.split("/").at(-1) ?? each.type).join(" | ") ?? field.$ref?.split("/").at(-1) ?? "";
    const needed = known.required?.includes(name) ? ", required" : field.default === undefined ? "" : `, default ${JSON.stringify(field.default)}`;
    return `${name}: ${kind}${needed}`;
  });
  return element("pre", {}, lines.join("\n"));
}

const sections = Object.entries(api.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, route]) => {
  const body = fields(route.requestBody?.content?.["application/json"]?.schema);
  const given = (route.parameters ?? []).map((each) => `${each.name} (${each.in})`).join(", ");
  return element("section", {},
    element("div", {}, element("span", { class: "method" }, method.toUpperCase()), element("code", {}, path)),
    element("p", {}, route.description ?? route.summary), ...(given ? [element("p", {}, `Parameters: ${given}`)] : []), ...(body ? [body] : []));
}));
byId("routes").replaceChildren(...sections);
