// A form's page. The kernel says which inputs there are and how the run stands (see form.py and fields.py); this draws
// it, and says what people put in. Text and HTML go in through common.js, which stands before this.

const NO_ANSWER = "The kernel does not answer: it is busy, or away. If it began anew: run the cell again to use this form.";

// One input: `read` what was put in (null: the browser cannot make sense of it), `write` it, say its `problem`.
function field(told, ask) {
  const id = `ai-${Math.random().toString(36).slice(2)}`;
  const input = element(told);
  Object.assign(input, { id, name: told.name });
  const help = make("p", { id: `${id}-help`, className: "ai-help", textContent: told.help, hidden: !told.help });
  const problem = make("p", { id: `${id}-problem`, className: "ai-failed", hidden: true });
  input.setAttribute("aria-describedby", `${help.id} ${problem.id}`);
  input.setAttribute("aria-required", String(!told.optional));
  const name = make("label", { htmlFor: id }, told.label);
  const hint = make("span", { className: "ai-hint", textContent: hintOf(told) });
  const row = make(
    "div", { className: `ai-field ai-is-${told.kind}` },
    make("div", { className: "ai-name" }, name, hint), make("div", { className: "ai-put" }, input, help, problem),
  );

  function write(value) {
    if (told.kind === "check") return (input.checked = value === true);
    if (told.kind === "variable" && value && ![...input.options].some((one) => one.value === value)) {
      input.append(make("option", { value, textContent: value }));
    }
    input.value = value;
  }

  function offer(found) {
    const labels = found.map(({ name, what }) => [name, `${name} (${what})`]);
    if (JSON.stringify(labels) === input.dataset.offered) return; // an open list is left alone
    input.dataset.offered = JSON.stringify(labels);
    const chosen = input.value;
    const none = found.length ? "Choose a variable" : "No variable of the notebook fits";
    const options = labels.map(([value, textContent]) => make("option", { value, textContent }));
    input.replaceChildren(make("option", { value: "", textContent: none }), ...options);
    if (chosen) write(chosen);
  }

  if (told.kind === "variable") {
    offer([]);
    for (const event of ["focus", "pointerenter"]) input.addEventListener(event, () => ask(told.name));
  }
  write(told.value);
  return {
    row,
    input,
    write,
    offer,
    read: () => (told.kind === "check" ? input.checked : input.validity.badInput ? null : input.value),
    problem(text) {
      problem.textContent = text ?? "";
      problem.hidden = !text;
      input.setAttribute("aria-invalid", String(Boolean(text)));
    },
  };
}

function hintOf({ kind, hint, optional, value }) {
  const type = hint.replace(" | None", "");
  const ofText = type === "str" ? "" : type;
  const what = { text: ofText, lines: "one per line", json: `JSON: ${type}`, variable: type ? `variable: ${type}` : "frame" }[kind] ?? "";
  return [what, optional && value === "" ? "optional" : ""].filter(Boolean).join(", ");
}

function element({ kind, choices, min, max, step, optional }) {
  if (kind === "area" || kind === "json" || kind === "lines") return make("textarea", { rows: 3, spellcheck: kind === "area" });
  if (kind === "variable") return make("select", {});
  if (kind === "choice") {
    const none = make("option", { value: "", textContent: optional ? "–" : "Choose one" });
    return make("select", {}, none, ...choices.map((value) => make("option", { value, textContent: value })));
  }
  if (kind !== "number") return make("input", { type: kind === "check" ? "checkbox" : kind, step: kind === "text" ? "" : "1" });
  const input = make("input", { type: "number", step: step ?? "any" });
  if (min !== undefined) input.min = min;
  if (max !== undefined) input.max = max;
  return input;
}

function drawn({ kind, blocks, note, data, alt, width, text }) {
  if (kind === "text") return [make("pre", { className: "ai-plain", tabIndex: 0, textContent: text })];
  if (kind === "picture") return [make("img", { src: `data:image/png;base64,${data}`, alt, width })];
  const foot = note ? [make("p", { className: "ai-help", textContent: note })] : [];
  return [...blocks.map(block), ...foot];
}

function render({ model, el }) {
  const state = model.get("state");
  const line = new Line(model, state.busy, lost, greet);
  const say = (said) => line.say(said);
  const fields = new Map(state.fields.map((told) => [told.name, field(told, (name) => say({ kind: "variables", name }))]));
  const run = make("button", { type: "submit", className: "ai-run", textContent: "Run" });
  const cancel = make("button", { type: "button", className: "ai-cancel", textContent: "Cancel", title: "Stop it (Esc)", hidden: true });
  const status = make("span", { className: "ai-status", role: "status" });
  const clock = make("span", { className: "ai-status" });
  const banner = make("div", { className: "ai-banner", role: "alert", hidden: true });
  const result = make("div", { className: "ai-result", role: "region", "aria-label": "Result", "aria-live": "polite", hidden: true });
  const form = make(
    "form", { className: "ai-fields", noValidate: true },
    ...[...fields.values()].map((each) => each.row),
    make("div", { className: "ai-buttons" }, run, cancel, status, clock),
  );
  const root = make(
    "section",
    { className: "ai-widget ai-form", "aria-label": `Form: ${state.title}`, "data-lm-suppress-shortcuts": "true", "data-jp-suppress-context-menu": "" },
    make("header", {}, make("h2", { textContent: state.title }), make("p", { className: "ai-help", textContent: state.about, hidden: !state.about })),
    form, banner, result,
    make("p", { className: "ai-deaf", hidden: state.busy, textContent: "This kernel hears nothing while a cell runs; ipykernel 7 does." }),
  );
  let ticking;
  let running = false;
  let asked = false; // until the kernel has answered: a second press runs nothing

  function fail(text) {
    banner.textContent = text;
    banner.hidden = !text;
  }

  function busy(isBusy, seconds = 0) {
    running = isBusy;
    run.setAttribute("aria-disabled", String(isBusy)); // disabled, it would lose the focus, and with it Esc
    cancel.hidden = !isBusy;
    root.setAttribute("aria-busy", String(isBusy));
    clearInterval(ticking);
    clock.textContent = "";
    if (!isBusy) return;
    const begun = performance.now() - 1000 * seconds;
    const tick = () => (clock.textContent = `${Math.floor((performance.now() - begun) / 1000)} s`);
    tick();
    ticking = setInterval(tick, 1000);
  }

  function idle() {
    busy(false);
    status.textContent = "";
  }

  function greet() {
    fail("");
    say({ kind: "hello" });
  }

  function lost() {
    idle();
    fail(NO_ANSWER);
  }

  const WORDS = { running: "Running …", done: "Done", failed: "Failed", canceled: "Canceled", refused: "Not run" };

  function show({ status: how, seconds, values, problems, error, result: given }) {
    if (!asked) for (const [name, value] of Object.entries(values)) fields.get(name)?.write(value); // of before a reload
    asked = true;
    busy(how === "running", seconds);
    const over = ["done", "failed", "canceled"].includes(how) && seconds >= 0.1;
    status.textContent = over ? `${WORDS[how]} after ${seconds.toFixed(1)} s` : WORDS[how];
    for (const [name, each] of fields) each.problem(problems[name]);
    fail(error);
    result.replaceChildren(...(given ? drawn(given) : []));
    result.hidden = !given;
    [...fields].find(([name]) => problems[name])?.[1].input.focus();
  }

  function submit() {
    if (running) return;
    const values = {};
    const senseless = [];
    for (const [name, each] of fields) {
      values[name] = each.read();
      if (values[name] === null) senseless.push(each);
      each.problem(values[name] === null ? "This cannot be read." : "");
    }
    if (senseless.length) return senseless[0].input.focus();
    asked = true;
    fail("");
    busy(true);
    status.textContent = WORDS.running;
    say({ kind: "run", values });
  }

  function hear(message) {
    line.heard();
    if (message.kind === "state") {
      show(message);
    } else if (message.kind === "variables") {
      fields.get(message.name)?.offer(message.found);
    } else if (message.kind === "error") {
      if (!message.running) idle();
      fail(message.text);
    }
  }

  form.addEventListener("submit", (event) => { event.preventDefault(); submit(); });
  cancel.addEventListener("click", () => say({ kind: "cancel" }));
  root.addEventListener("keydown", (event) => {
    const isComposing = event.isComposing || event.keyCode === 229; // Esc is the input method's then
    if (event.key === "Escape" && !isComposing && !cancel.hidden) say({ kind: "cancel" });
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); submit(); } // also in a text of lines
    event.stopPropagation(); // Shift+Enter would run the cell
  });
  model.on("msg:custom", hear);
  model.on("comm_live_update", greet); // Jupyter's widgets: the kernel begins anew, or is back
  el.append(root);
  greet();
  const showTranscript = hideTranscript(el);
  return () => {
    clearInterval(ticking);
    line.close();
    showTranscript();
    model.off("msg:custom", hear);
    model.off("comm_live_update", greet);
  };
}

export default { render };
