// The page at /: sends a question to one or two models and shows their answers beside the trained one.
// Texts of models and data are inserted as text, never as HTML.
import { Failure, answer, isUp, setup } from "./api.js";
import { WORDS } from "./words.js";

const $ = (id) => document.getElementById(id);
const remembered = (name) => localStorage.getItem(`mirror.${name}`);
const remember = (name, value) => localStorage.setItem(`mirror.${name}`, value);

let language = remembered("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en");
let key = keyFromAddress() ?? sessionStorage.getItem("mirror.key") ?? "";
let told = null; // setup.json
let sides = []; // [{role, model, messages}], in their order on the page
let kind = "all";
let running = null; // AbortController of the turn that is being answered

const word = (name, values = {}) =>
  Object.entries(values).reduce((text, [slot, value]) => text.replace(`{${slot}}`, () => value), WORDS[language][name]);

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// A key after # is never sent in a request for the page. It is removed from the address bar at once.
function keyFromAddress() {
  const given = new URLSearchParams(location.hash.slice(1)).get("key");
  if (given === null) return null;
  history.replaceState(null, "", location.pathname);
  sessionStorage.setItem("mirror.key", given);
  return given;
}

// ---- words and colours ------------------------------------------------------------------------------------------------
function speak() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const each of document.querySelectorAll("[data-word]")) each.textContent = word(each.dataset.word);
  for (const each of document.querySelectorAll("[data-hint]")) each.placeholder = word(each.dataset.hint);
  for (const each of document.querySelectorAll("[data-label]")) each.setAttribute("aria-label", word(each.dataset.label));
  $("theme").title = word("theme");
  $("language").textContent = word("other");
  if (told) {
    showNotice();
    showSides();
    showQuestions();
  }
}

$("language").onclick = () => {
  language = language === "zh" ? "en" : "zh";
  remember("language", language);
  speak();
};

const prefersDark = matchMedia("(prefers-color-scheme: dark)");
if (remembered("theme")) document.documentElement.dataset.theme = remembered("theme");
$("theme").onclick = () => {
  const now = document.documentElement.dataset.theme ?? (prefersDark.matches ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  remember("theme", document.documentElement.dataset.theme);
};

// ---- the server: its models, its key, its absence ---------------------------------------------------------------------
async function load() {
  try {
    told = await setup(key);
  } catch (failure) {
    report(failure);
    return;
  }
  $("problem").hidden = true;
  $("key-button").hidden = !key;
  const names = told.models.map((model) => model.id);
  const tuned = names.find(isTuned);
  sides = tuned ? [side(names[0]), side(tuned)] : [side(names[0])];
  $("drawer").open = wide.matches;
  showNotice();
  showSides();
  showQuestions();
}

// The notice about a model that is made for tests.
function showNotice() {
  $("notice").textContent = told.notice ? word(told.notice) : "";
  $("notice").hidden = !told.notice;
}

const side = (model) => ({ model, messages: [] });

function report(failure) {
  if (failure.kind === "key") {
    askForKey(Boolean(key));
  } else if (failure.kind === "gone") {
    $("problem").textContent = word("gone");
    $("problem").hidden = false;
    setTimeout(tryAgain, 3000);
  } else {
    $("problem").textContent = word("refused", { message: failure.message });
    $("problem").hidden = false;
  }
}

let trying = false;
async function tryAgain() {
  if (trying) return;
  trying = true;
  try {
    await isUp();
    $("problem").hidden = true;
    if (!told) await load();
  } catch {
    setTimeout(tryAgain, 3000);
  }
  trying = false;
}

function askForKey(wasWrong) {
  $("key-wrong").hidden = !wasWrong;
  $("key").value = "";
  if (!$("key-dialog").open) $("key-dialog").showModal();
  $("key").focus();
}

$("key-button").onclick = () => askForKey(false);
$("key-form").onsubmit = async (event) => {
  event.preventDefault();
  key = $("key").value.trim();
  try {
    const got = await setup(key);
    sessionStorage.setItem("mirror.key", key);
    $("key-dialog").close();
    if (told) told = got;
    else await load();
  } catch (failure) {
    if (failure.kind !== "key") $("key-dialog").close();
    report(failure);
  }
};

// ---- the two models -----------------------------------------------------------------------------------------------------
const isTuned = (name) => Object.hasOwn(told.questions, name);

function roleOf(name) {
  if (!Object.keys(told.questions).length) return "model";
  return isTuned(name) ? "tuned" : "base";
}

function showSides() {
  const names = told.models.map((model) => model.id);
  document.documentElement.style.setProperty("--sides", sides.length);
  $("sides").replaceChildren(
    ...sides.map((each) => {
      const role = roleOf(each.model);
      const choose = element("select", { onchange: () => change(each, choose.value) });
      choose.setAttribute("aria-label", word(role));
      choose.append(...names.map((name) => element("option", { value: name, textContent: name })));
      choose.value = each.model;
      const name = names.length > 1 ? choose : element("span", { className: "name", textContent: each.model });
      const system = told.models.find((model) => model.id === each.model)?.system ?? word("noSystem");
      const short = element("span", { className: "short", textContent: system });
      const prompt = element("details", {}, element("summary", {}, word("system"), short), element("p", { textContent: system }));
      const head = element("div", { className: "head" }, element("b", { textContent: word(role) }), name);
      return element("section", { className: `side ${role}` }, head, prompt);
    }),
  );
}

function change(each, name) {
  each.model = name;
  fresh();
  showSides();
  showQuestions();
}

// ---- the questions ------------------------------------------------------------------------------------------------------
const wide = matchMedia("(min-width: 900px)");
wide.onchange = () => ($("drawer").open = wide.matches);
$("drawer").querySelector("summary").onclick = (event) => {
  if (wide.matches) event.preventDefault(); // beside the conversation, the list stays open
};

function questions() {
  const asked = sides.findLast((each) => isTuned(each.model));
  return asked ? told.questions[asked.model] : [];
}

function showQuestions() {
  const all = questions();
  const kinds = ["all", ...new Set(all.map((each) => each.kind))];
  if (!kinds.includes(kind)) kind = "all";
  $("kinds").replaceChildren(
    ...kinds.map((name) => {
      const chip = element("button", { type: "button", textContent: word(name), onclick: () => ((kind = name), showQuestions()) });
      chip.setAttribute("aria-pressed", name === kind);
      return chip;
    }),
  );
  $("kinds").hidden = kinds.length < 3;
  const sought = $("filter").value.trim().toLowerCase();
  const shown = all.filter(
    (each) => (kind === "all" || each.kind === kind) && `${each.question}\n${each.answer}`.toLowerCase().includes(sought),
  );
  $("questions").replaceChildren(
    ...shown.map((each) => {
      const choose = element("button", { type: "button", textContent: each.question, onclick: () => begin(each, choose) });
      if (each.kind !== "trained") choose.append(element("i", { textContent: word(each.kind) }));
      return element("li", {}, choose);
    }),
  );
  $("count").textContent = all.length ? `(${shown.length === all.length ? all.length : `${shown.length}/${all.length}`})` : "";
  $("no-questions").hidden = all.length > 0;
  $("filter").hidden = all.length === 0;
}

$("filter").oninput = showQuestions;
$("questions").onkeydown = (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const all = [...$("questions").querySelectorAll("button")];
  all[all.indexOf(document.activeElement) + step]?.focus();
};

// A question of the data starts a new conversation, as in the training.
function begin(example, choose) {
  if (running) return;
  fresh();
  choose.setAttribute("aria-current", "true");
  if (!wide.matches) $("drawer").open = false;
  const before = example.turns ?? [];
  for (const each of sides) {
    each.messages = [...(example.system === undefined ? [] : [{ role: "system", content: example.system }]), ...before];
  }
  const lines = before.map((turn) => element("p", { className: turn.role === "user" ? "asked" : "soft", textContent: turn.content }));
  if (example.system !== undefined) lines.unshift(element("p", { className: "soft", textContent: word("ownSystem") + example.system }));
  if (lines.length) $("talk").append(element("article", { className: "turn" }, ...lines));
  ask(example.question, example.answer);
}

// ---- asking -------------------------------------------------------------------------------------------------------------
function fresh() {
  running?.abort();
  for (const each of sides) each.messages = [];
  for (const each of $("questions").querySelectorAll("[aria-current]")) each.removeAttribute("aria-current");
  $("talk").replaceChildren($("empty"));
  $("empty").hidden = false;
}

async function ask(question, reference) {
  const stopper = new AbortController();
  setRunning(stopper);
  $("empty").hidden = true;
  const answers = element("div", { className: `answers${reference ? " with-reference" : ""}` });
  const boxes = sides.map((each) => box(word(roleOf(each.model)), each.model, roleOf(each.model)));
  answers.append(...boxes.map((each) => each.whole));
  if (reference) {
    const trained = box(word("reference"), "", "reference");
    trained.said.textContent = reference;
    answers.append(trained.whole);
  }
  $("talk").append(element("article", { className: "turn" }, element("p", { className: "asked", textContent: question }), answers));
  answers.scrollIntoView({ block: "nearest" });
  const failures = await Promise.all(sides.map((each, place) => one(each, boxes[place], question, reference, stopper.signal)));
  if (running === stopper) setRunning(null);
  const failure = failures.find((each) => each && each.kind !== "refused" && each.kind !== "broken");
  if (failures.some(Boolean)) $("text").value ||= question;
  if (failure) report(failure);
  else if (failures.some((each) => each?.kind === "broken")) report(new Failure("gone"));
}

function box(label, model, role) {
  const said = element("div", { className: "said" });
  const end = element("div", { className: "end" });
  const heading = element("h3", { textContent: model && label !== model ? `${label} · ${model}` : label });
  const whole = element("section", { className: `answer ${role}` }, heading, said, ...(role === "reference" ? [] : [end]));
  return { whole, said, end };
}

// Streams one model's answer into its box. Returns the Failure, if there is one.
async function one(each, { whole, said, end }, question, reference, signal) {
  const begun = performance.now();
  const messages = [...each.messages, { role: "user", content: question }];
  let [text, finish, tokens, failure] = ["", "", null, null];
  whole.classList.add("running");
  whole.setAttribute("aria-busy", "true");
  try {
    for await (const piece of answer(each.model, messages, key, signal)) {
      if (piece.text) {
        text += piece.text;
        said.textContent = text;
        follow(whole);
      }
      finish = piece.finish ?? finish;
      tokens = piece.tokens ?? tokens;
    }
  } catch (error) {
    if (error.name === "AbortError") finish = "stopped";
    else failure = error instanceof Failure ? error : new Failure("refused", error.message);
  }
  whole.classList.remove("running");
  whole.removeAttribute("aria-busy");
  if (text) each.messages = [...messages, { role: "assistant", content: text }];
  const seconds = ((performance.now() - begun) / 1000).toFixed(1);
  if (failure) {
    const name = { key: "needsKey", gone: "broken", broken: "broken", refused: "refused" }[failure.kind];
    end.classList.add("wrong");
    end.textContent = word(name, { message: failure.message });
    return failure;
  }
  if (!text && finish !== "stopped") said.append(element("span", { className: "soft", textContent: word("nothing") }));
  const notes = [tokens === null ? word("tookOnly", { seconds }) : word("took", { seconds, tokens })];
  if (finish === "stopped" || finish === "length") notes.push(word(finish));
  end.append(element("span", { textContent: notes.join(" · ") }));
  if (reference && text.trim() === reference.trim()) end.append(element("span", { className: "same", textContent: `✓ ${word("same")}` }));
  return null;
}

// Keep the end of a growing answer in sight, unless the reader has scrolled up.
function follow(whole) {
  const scroller = wide.matches ? $("talk") : document.scrollingElement;
  if (scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 160) scroller.scrollTop = scroller.scrollHeight;
}

function setRunning(stopper) {
  running = stopper;
  $("send").hidden = Boolean(stopper);
  $("stop").hidden = !stopper;
  for (const each of $("sides").querySelectorAll("select")) each.disabled = Boolean(stopper);
}

const stop = () => running?.abort();
$("stop").onclick = stop;
$("new").onclick = () => {
  fresh();
  $("text").focus();
};
$("composer").onsubmit = (event) => {
  event.preventDefault();
  const question = $("text").value.trim();
  if (!question || running || !told) return;
  $("text").value = "";
  grow();
  ask(question);
};
const grow = () => {
  $("text").style.height = "auto";
  $("text").style.height = `${$("text").scrollHeight + 2}px`;
};
$("text").oninput = grow;
$("text").onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return; // Enter also confirms a word of an input method
  event.preventDefault();
  $("composer").requestSubmit();
};
document.onkeydown = (event) => {
  if (event.key === "Escape") stop();
  if (event.key === "/" && !["INPUT", "TEXTAREA", "SELECT"].includes(document.activeElement.tagName)) {
    event.preventDefault();
    $("text").focus();
  }
};

speak();
load();
