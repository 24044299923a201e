// The engine of a static site: the model runs on the visitor's own device with onnxruntime-web, and no picture leaves it.
const runtime = import('__ORT__/ort.wasm.min.mjs'); // megabytes: the page stands before they are there

const model = __MODEL__; // what the ONNX file says about itself, and the title

export const info = {
  title: model.title,
  note: 'Pictures are classified on this device; nothing is uploaded.',
  labels: model.answer.vocab ?? [],
  explains: false,
  feedback: false,
};

async function open() {
  const ort = await runtime;
  ort.env.wasm.wasmPaths = new URL('__ORT__/', import.meta.url).href;
  return ort.InferenceSession.create(new URL('model.onnx', import.meta.url).href, {executionProviders: ['wasm']});
}

const session = open();
export const ready = session;

const LARGEST = 4096; // pixels of a side; larger pictures are drawn smaller

// (h,w,3) bytes of an upright picture over white, as the library reads them.
async function pixels(blob) {
  let bitmap;
  try { bitmap = await createImageBitmap(blob, {imageOrientation: 'from-image', colorSpaceConversion: 'none'}); }
  catch { throw new Error('this browser cannot read it as a picture'); }
  const scale = Math.min(1, LARGEST / Math.max(bitmap.width, bitmap.height));
  const w = Math.max(1, Math.round(bitmap.width * scale)), h = Math.max(1, Math.round(bitmap.height * scale));
  const canvas = new OffscreenCanvas(w, h), draw = canvas.getContext('2d', {willReadFrequently: true});
  draw.fillStyle = '#fff';
  draw.fillRect(0, 0, w, h);
  draw.drawImage(bitmap, 0, 0, w, h);
  const rgba = draw.getImageData(0, 0, w, h).data, c = model.mode === 'L' ? 1 : 3, out = new Uint8Array(w * h * c);
  for (let i = 0; i < w * h; i++) {
    if (c === 1) out[i] = Math.round((rgba[4 * i] * 19595 + rgba[4 * i + 1] * 38470 + rgba[4 * i + 2] * 7471) / 65536);
    else out.set(rgba.subarray(4 * i, 4 * i + 3), 3 * i);
  }
  const ort = await runtime;
  return new ort.Tensor('uint8', out, [h, w, c]);
}

// The record of one picture: see vislearn.deploy.records.
function record(probs) {
  const {type, vocab, thresh} = model.answer;
  const byLabel = () => Object.fromEntries([...probs].map((p, i) => [String(vocab[i]), p]).sort((a, b) => b[1] - a[1]));
  if (type === 'Category') {
    const index = probs.indexOf(Math.max(...probs));
    return {label: vocab[index], index, prob: probs[index], probs: byLabel()};
  }
  if (type === 'MultiCategory') {
    const limit = i => Array.isArray(thresh) ? thresh[i] : thresh;
    const indices = [...probs.keys()].filter(i => probs[i] > limit(i));
    return {labels: indices.map(i => vocab[i]), indices, probs: byLabel()};
  }
  return probs.length === 1 ? {value: probs[0]} : {values: [...probs]};
}

let last = Promise.resolve(); // one picture at a time

export function predict(blob) {
  last = last.catch(() => {}).then(async () => {
    const out = await (await session).run({picture: await pixels(blob)}, ['probs']);
    return record(out.probs.data);
  });
  return last;
}
