const started = performance.now()

const print = (text: string): void => void process.stdout.write(`${text}\n`)

export const heading = (text: string): void => print(`\n== ${text}`)

export const line = (text: string): void => print(`   ${text}`)

/** Something that was observed, and when. */
export const seen = (text: string): void =>
  print(`   [${((performance.now() - started) / 1000).toFixed(1).padStart(5)} s] ${text}`)

export const expect = (holds: boolean, otherwise: string): void => {
  if (!holds) throw new Error(otherwise)
}
