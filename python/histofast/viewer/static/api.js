// What the server gives: JSON and columns of numbers. Addresses are relative, so that any prefix of a proxy works.

export class Refused extends Error {} // its message is a sentence for the page

async function answer(url, options) {
  let response;
  try {
    response = await fetch(url, { credentials: "same-origin", ...options });
  } catch {
    throw new Refused("the server does not answer: is histofast view still running?");
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw new Refused(said.error || `the server refused ${url} (${response.status})`);
}

const json = async (url, options) => (await answer(url, options)).json();
const column = async (url, Kind) => new Kind(await (await answer(url)).arrayBuffer());

export const session = () => json("api/session");
export const slides = () => json("api/slides");
export const slide = (id) => json(`api/slide/${id}`);
export const tissue = async (id) => (await json(`api/slide/${id}/tissue`)).polygons;
export const patches = (id) => column(`api/slide/${id}/patches`, Int32Array); // (n, 2) level-0 x, y
export const patch = (id, row) => json(`api/slide/${id}/patch/${row}`);
export const similar = (id, row, scope, k) => json(`api/similar?slide=${id}&patch=${row}&k=${k}&scope=${scope}`);
export const values = (id, layer) =>
  column(`api/slide/${id}/values/${encodeURIComponent(layer.id)}`, layer.kind === "colour" ? Uint8Array : Float32Array);
export const write = (region) =>
  json("api/export", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(region) });

export const tileUrl = (id, z, x, y) => `tile/${id}/${z}/${x}_${y}.jpg`;
export const patchUrl = (id, row) => `patch/${id}/${row}.jpg`;
