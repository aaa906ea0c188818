import { join } from 'node:path'
import { mustRun } from './command.ts'
import { DEFAULT_BASE, type HostKind, hostKinds, recipes } from './kinds.ts'

// Which image stands for each public base image: docker/base-images.sh finds, pulls or makes them. It is asked once a
// run; workers read the answer from their environment.

/** The answer: `NAME=IMAGE` with blanks between, no IMAGE where the base can't be had here. */
export const BASES_VARIABLE = 'APONO_TEST_BASES'

const script = join(import.meta.dirname, '..', '..', 'docker', 'base-images.sh')

/** The image to build on. */
export async function baseImage(name: string): Promise<string> {
  const chosen = process.env['APONO_BASE_DEBIAN']
  if (name === DEFAULT_BASE && chosen) return chosen
  const known = knownBases().get(name)
  if (known) return known
  const [[, image = ''] = []] = await ask([name])
  if (image === '') throw new Error(`the base image ${name} can't be had here`)
  return image
}

/** Finds all bases, makes those that must be made, and says what is going on; gives the answer as one line. */
export async function findBases(): Promise<string> {
  const wanted = [...new Set(hostKinds.flatMap((kind) => baseOf(kind, false)))]
  return `${answerLine(await ask(wanted))} ${await findOptionalBases()}`
}

/** The same for images that are no host's base. */
export async function findImages(names: readonly string[]): Promise<string> {
  return answerLine(await ask(names))
}

/** What the run has found for a public name; undefined where it can't be had. */
export function foundImage(name: string): string | undefined {
  return knownBases().get(name) || undefined
}

/** Only those that can be pulled or not be had at all. */
export async function findOptionalBases(): Promise<string> {
  const optional = [...new Set(hostKinds.flatMap((kind) => baseOf(kind, true)))]
  return answerLine(await ask(['--pull-only', ...optional]))
}

/** Why there are no hosts of this kind here; undefined where there are. */
export function missingBase(kind: HostKind): string | undefined {
  const [optional] = baseOf(kind, true)
  return optional === undefined || knownBases().get(optional) ? undefined : optional
}

function baseOf(kind: HostKind, optional: boolean): string[] {
  const recipe = recipes[kind]
  if ('on' in recipe) return baseOf(recipe.on, optional)
  return (recipe.optional ?? false) === optional ? [recipe.base] : []
}

function knownBases(): Map<string, string> {
  return new Map((process.env[BASES_VARIABLE] ?? '').split(' ').map(splitAnswer))
}

async function ask(args: readonly string[]): Promise<[string, string][]> {
  const output = await mustRun('sh', [script, ...args], { timeoutMs: 1_800_000, progress: true })
  return output.trim().split('\n').map(splitAnswer)
}

function answerLine(answers: readonly [string, string][]): string {
  return answers.map((answer) => answer.join('=')).join(' ')
}

function splitAnswer(answer: string): [string, string] {
  const at = answer.indexOf('=')
  return [answer.slice(0, at), answer.slice(at + 1)]
}
