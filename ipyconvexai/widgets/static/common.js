// What the widgets' pages share; it stands before each of them (views.py). Text goes in as text. HTML comes from the
// kernel's render/, which made it safe, and where the browser can, it makes it safe once more.

const STRICT = { sanitizer: { removeElements: ["style", "form", "input", "button", "textarea", "select", "img"] } };

function setHtml(element, html) {
  if (element.setHTML) element.setHTML(html, STRICT);
  else element.innerHTML = html;
}

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function copyButton(textOf) {
  const button = make("button", { type: "button", className: "ai-copy", textContent: "Copy" });
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(textOf());
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  return button;
}

function button(label, className, press) {
  const made = make("button", { type: "button", className, textContent: label });
  made.addEventListener("click", press);
  return made;
}
