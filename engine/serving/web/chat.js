// Conversation about the chosen cells; every claim has a chip that lights up what it rests on.

import { byId, element } from "./elements.js";
import { streamed } from "./server.js";
import { say } from "./speech.js";
import { choose, positionsOf, rangesOf, state } from "./state.js";

const turns = []; // { role, content }, as the server takes them
let speaking = null;

export function startChat(openTab) {
  byId("chat-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = byId("words").value.trim() || "Describe these cells in detail.";
    byId("words").value = "";
    openTab("chat");
    await ask(text);
  });
  byId("words").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      byId("chat-form").requestSubmit();
    }
  });
}

async function ask(text) {
  speaking?.abort();
  speaking = new AbortController();
  const cells = state.chosen.length ? [{ type: "cells", cells: { ranges: rangesOf(state.chosen) } }] : [];
  turns.push({ role: "user", content: [...cells, { type: "text", text }] });
  const about = state.chosen.length;
  byId("talk").append(element("li", { class: "asked" }, text));
  const answer = element("li", { "aria-busy": true });
  byId("talk").append(answer);
  let words = "", evidence = [];
  try {
    for await (const chunk of streamed("/v1/chat/completions", { model: "cells", messages: turns }, speaking.signal)) {
      if (chunk.evidence) evidence = chunk.evidence;
      words += chunk.choices[0].delta.content ?? "";
      show(answer, words, evidence, about);
    }
    turns.push({ role: "assistant", content: words });
  } catch (error) {
    if (error.name === "AbortError") return;
    turns.pop();
    answer.append(element("p", { class: "failed" }, error.message));
    say(error.message, true);
  } finally {
    answer.removeAttribute("aria-busy");
  }
}

function show(answer, words, evidence, about) {
  const known = new Map(evidence.map((piece) => [piece.id, piece]));
  const parts = words.split(/(\[E\d+\])/).map((part) => {
    const piece = known.get(part.slice(1, -1));
    return piece ? chip(piece, about) : part;
  });
  const list = element("ol", {}, ...evidence.map((piece) => element("li", {}, chip(piece, about), ` ${piece.summary}`)));
  answer.replaceChildren(element("p", {}, ...parts),
    element("details", { class: "evidence" }, element("summary", {}, `Evidence (${evidence.length})`), list));
}

function chip(piece) {
  const light = () => {
    if (piece.cells.length) choose(positionsOf(piece.cells));
    say(piece.summary);
  };
  return element("button", { type: "button", class: "chip", title: piece.summary, onclick: light }, piece.id);
}
