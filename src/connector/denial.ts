/**
 * Why a job goes beyond a limit. Nothing of the job is told that did not pass an allow-list first: the text ends up in
 * logs, terminals and the control plane.
 */
export interface Denial {
  /** Default: `denied_by_guard`. */
  readonly code?: 'guard_file_unusable'
  /** Begins with the member of the guard file that it is about, where one is. */
  readonly message: string
  readonly hint: string
}
