// Talking to the server this page came from.

let key = sessionStorage.getItem("syncytium-key");

export function useKey(text) {
  key = text;
  sessionStorage.setItem("syncytium-key", text);
}

export class Refusal extends Error {
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }
}

async function fetched(path, body, signal) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const options = body === undefined ? { headers, signal } : {
    method: "POST", headers: { ...headers, "Content-Type": "application/json" }, body: JSON.stringify(body), signal,
  };
  const response = await fetch(path, options);
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({ detail: `the server answered ${response.status}` }));
  throw new Refusal(response.status, problem.error?.code, problem.detail);
}

export const json = async (path, body, signal) => (await fetched(path, body, signal)).json();

/** A byte a cell, and what 1 and 255 stand for. */
export async function levels(path, body, signal) {
  const response = await fetched(path, body, signal);
  const end = (name) => Number(response.headers.get(`X-Score-${name}`) ?? NaN);
  return { levels: new Uint8Array(await response.arrayBuffer()), low: end("Low"), high: end("High"), headers: response.headers };
}

export const bytes = async (path) => (await fetched(path)).arrayBuffer();
export const blob = async (path) => (await fetched(path)).blob();

/** Chunks of a streamed answer, as they come. */
export async function* streamed(path, body, signal) {
  const reader = (await fetched(path, { ...body, stream: true }, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    waiting += value;
    const events = waiting.split("\n\n");
    waiting = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ") || event === "data: [DONE]") continue;
      const chunk = JSON.parse(event.slice(6));
      if (chunk.error) throw new Refusal(chunk.status, chunk.error.code, chunk.detail);
      yield chunk;
    }
  }
}
