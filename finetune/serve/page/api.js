// The page's requests to its server. A Failure names what went wrong: key, gone, broken or refused.
export class Failure extends Error {
  constructor(kind, message = "") {
    super(message);
    this.kind = kind;
  }
}

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("gone");
  }
  if (response.ok) return response;
  if (response.status === 401) throw new Failure("key");
  let message = `HTTP ${response.status}`;
  try {
    const told = await response.json();
    message = told.error?.message ?? told.message ?? message;
  } catch {
    // not JSON, for example a proxy's own page: the status is shown
  }
  throw new Failure("refused", message);
}

const withKey = (key) => (key ? { authorization: `Bearer ${key}` } : {});

export const isUp = async () => (await request("/health")).ok;

export const setup = async (key) => (await request("/page/setup.json", { headers: withKey(key) })).json();

// The pieces of one answer: {text} as they come, {finish} and {tokens} at its end.
export async function* answer(model, messages, key, signal) {
  const response = await request("/v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json", ...withKey(key) },
    body: JSON.stringify({ model, messages, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      throw error.name === "AbortError" ? error : new Failure("broken");
    }
    if (part.done) throw new Failure("broken"); // a whole stream ends with [DONE]
    const events = (held + part.value).split("\n\n");
    held = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ")) continue;
      if (event === "data: [DONE]") return;
      const chunk = JSON.parse(event.slice(6));
      if (chunk.error) throw new Failure("refused", chunk.error.message);
      const choice = chunk.choices[0];
      if (choice?.delta.content) yield { text: choice.delta.content };
      if (choice?.finish_reason) yield { finish: choice.finish_reason };
      if (chunk.usage) yield { tokens: chunk.usage.completion_tokens };
    }
  }
}
