/**
 * What `/proc/PID/stat` of Linux says about a process.
 *
 * @internal
 */

export interface ProcStat {
  /** One letter; `Z` and `X` are dead processes that nobody has waited for yet. */
  readonly state: string
  /** Clock ticks between boot and the start of the process. */
  readonly birth: bigint
}

/**
 * Reads the line: pid, name in parentheses, state (field 3), ..., start time (field 22). The name is whatever the
 * process likes, parentheses and blanks included, so the fields are counted from the last closing one.
 */
export const parseProcStat = (line: string): ProcStat | undefined => {
  const fields = line.slice(line.lastIndexOf(")") + 1).trim().split(" ")
  const [state] = fields
  const birth = fields[22 - 3]
  return state !== undefined && /^[A-Za-z]$/.test(state) && birth !== undefined && /^\d+$/.test(birth)
    ? { state, birth: BigInt(birth) }
    : undefined
}

export const isDeadState = (state: string): boolean => state === "Z" || state === "X" || state === "x"
