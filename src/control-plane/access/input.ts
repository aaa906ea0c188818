import type { z } from 'zod'
import { type InputProblem, invalid } from './domain-error.ts'

const pathText = (path: readonly PropertyKey[]): string =>
  path.reduce<string>((text, part) => {
    if (typeof part === 'number') return `${text}[${part}]`
    return text === '' ? String(part) : `${text}.${String(part)}`
  }, '')

/** `required` says more than "expected string, received undefined". */
const requiredFirst = (issue: { code?: string; input?: unknown }): string | undefined =>
  issue.code === 'invalid_type' && issue.input === undefined ? 'required' : undefined

export type Parsed<T> = { ok: true; value: T } | { ok: false; problems: readonly InputProblem[] }

/** Checks everything and names every problem by its path, below `base`. */
export const check = <S extends z.ZodType>(
  schema: S,
  input: unknown,
  base: readonly PropertyKey[] = [],
): Parsed<z.output<S>> => {
  const parsed = schema.safeParse(input, { error: requiredFirst })
  if (parsed.success) return { ok: true, value: parsed.data }
  const problems = parsed.error.issues.map((issue) => ({
    path: pathText([...base, ...issue.path]) || 'body',
    message: issue.message,
  }))
  return { ok: false, problems }
}

/** Deeper than anything that makes sense; what walks a value by recursion must not run out of stack. */
const MAX_DEPTH = 32

const isTooDeep = (input: unknown): boolean => {
  let level: unknown[] = [input]
  for (let depth = 0; level.length > 0; depth += 1) {
    if (depth > MAX_DEPTH) return true
    level = level.flatMap((value) => (typeof value === 'object' && value !== null ? Object.values(value) : []))
  }
  return false
}

export const refuseTooDeep = (input: unknown): void => {
  if (isTooDeep(input)) throw invalid([{ path: 'body', message: `is nested deeper than ${MAX_DEPTH} levels` }])
}

/** Like {@link check}, but a problem is the end of it. */
export const parseInput = <S extends z.ZodType>(schema: S, input: unknown): z.output<S> => {
  const parsed = check(schema, input)
  if (!parsed.ok) throw invalid(parsed.problems)
  return parsed.value
}
