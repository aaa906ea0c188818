import { parentPort } from 'node:worker_threads'

/** Answers, and then goes wrong in every way that is left. */
parentPort?.postMessage({ message: 'answered', detail: 'first' })
setTimeout(() => {
  throw new Error('late')
})
await Promise.reject(new Error('later'))
