// The engine of `vislearn serve`: pictures are sent to the server that the page came from.
const headers = sessionStorage.apiKey ? {'X-API-Key': sessionStorage.apiKey} : {};

async function ask(path, options = {}) {
  const answer = await fetch(path, {...options, headers: {...headers, ...options.headers}});
  if (answer.status === 401 && !headers['X-API-Key']) {
    const key = prompt('This server asks for a key:');
    if (key) {
      headers['X-API-Key'] = sessionStorage.apiKey = key;
      return ask(path, options);
    }
  }
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    throw new Error(said.error?.message ?? `the server answered ${answer.status}`);
  }
  return answer;
}

export const info = await (await ask('page.json')).json();
export const ready = ask('ready');

export async function predict(blob) {
  return (await ask('predict', {method: 'POST', body: blob, headers: {'Content-Type': 'application/octet-stream'}})).json();
}

export async function explain(blob) {
  return URL.createObjectURL(await (await ask('explain', {method: 'POST', body: blob, headers: {'Content-Type': 'application/octet-stream'}})).blob());
}

export async function correct(blob, label) {
  await ask('feedback?label=' + encodeURIComponent(label), {method: 'POST', body: blob, headers: {'Content-Type': 'application/octet-stream'}});
}
