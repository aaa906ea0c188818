/** One thing that is wrong with what was sent, named by its path: `servers[2].host`, `required`. */
export interface InputProblem {
  readonly path: string
  readonly message: string
}

export type DomainErrorKind = 'invalid' | 'not_found' | 'forbidden' | 'conflict'

/** A refusal that the caller can do something about. Anything else that is thrown is a defect. */
export class DomainError extends Error {
  readonly kind: DomainErrorKind
  readonly problems: readonly InputProblem[]

  constructor(kind: DomainErrorKind, message: string, problems: readonly InputProblem[] = []) {
    super(message)
    this.name = 'DomainError'
    this.kind = kind
    this.problems = problems
  }
}

export const notFound = (what: string): DomainError => new DomainError('not_found', `${what} not found`)

export const invalid = (problems: readonly InputProblem[]): DomainError =>
  new DomainError('invalid', problems.map(({ path, message }) => `${path}: ${message}`).join('; '), problems)

export const conflict = (message: string): DomainError => new DomainError('conflict', message)

/** Says nothing about the thing itself: who may not see it must not learn that it exists. */
export const forbidden = (message = 'you are not allowed to do this'): DomainError =>
  new DomainError('forbidden', message)
