/**
 * Finds what a TypeScript source imports, without a compiler: TypeScript 7 has no JavaScript API.
 *
 * A scanner cuts the source into tokens, so that comments, strings, templates and regular expressions cannot look like
 * imports; then the few shapes of an import are recognised in the tokens. One thing is decided by rule of thumb, as in
 * every scanner that does not parse: whether a `/` divides or begins a regular expression (see `beginsRegExp`). A wrong
 * guess ends at the end of the line.
 */

/** One import of a source, with the line (from 1) of its specifier. */
export interface Import {
  /** `undefined` for a dynamic import whose specifier is computed. */
  readonly specifier: string | undefined
  readonly line: number
}

interface Token {
  readonly kind: "word" | "string" | "punctuator" | "literal"
  /** The text of a word or punctuator, the value of a string; empty for other literals. */
  readonly text: string
  readonly line: number
}

const wordStart = /[\p{ID_Start}$_#@]/u
const word = /[\p{ID_Continue}$#@\u200c\u200d]*/uy
const number = /(?:[\d_]|\.\d)[\w.]*/y
const regExp = /\/(?:[^\n/\\[]|\\.|\[(?:[^\n\]\\]|\\.)*\])+\/\w*/y
const quoted = /(["'])((?:(?!\1)[^\\\n]|\\[^])*)(?:\1|$|(?=\n))/ym

/** After one of these words an expression begins, so a `/` there begins a regular expression. */
const beforeExpression = new Set(
  "await case delete do else extends in instanceof new of return throw typeof void yield".split(" ")
)

const unescape = (text: string): string =>
  text.replaceAll(
    /\\(?:u\{([0-9a-f]+)\}|u([0-9a-f]{4})|x([0-9a-f]{2})|([^]))/gi,
    (_, u?: string, v?: string, x?: string, c?: string) => {
      const code = u ?? v ?? x
      return code === undefined ? c ?? "" : String.fromCodePoint(Number.parseInt(code, 16))
    }
  )

const matchAt = (pattern: RegExp, source: string, at: number): RegExpExecArray | null => {
  pattern.lastIndex = at
  return pattern.exec(source)
}

const tokenize = (source: string): Array<Token> => {
  const tokens: Array<Token> = []
  /** Open brackets; `${` is the brace of a template, after whose end the template goes on. */
  const open: Array<{ readonly bracket: string; readonly afterControl: boolean }> = []
  let at = source.startsWith("#!") ? source.indexOf("\n") : 0
  let line = 1
  /** Whether the last `)` closed the head of an `if`, `while`, `for` or `with`. */
  let closedControl = false

  const advance = (length: number) => {
    for (let i = at; i < at + length; i++) if (source[i] === "\n") line++
    at += length
  }
  const add = (kind: Token["kind"], text: string, length: number) => {
    tokens.push({ kind, text, line })
    advance(length)
  }
  const beginsRegExp = (): boolean => {
    const last = tokens.at(-1)
    if (last === undefined) return true
    if (last.kind === "word") return beforeExpression.has(last.text)
    if (last.kind !== "punctuator") return false
    if (last.text === ")") return closedControl
    // A block ends its line, an object literal that is divided does not.
    if (last.text === "}") return last.line < line
    return last.text !== "]"
  }
  /** The text of a template from `at` (after its backtick or the `}` of a substitution) up to its end or next `${`. */
  const template = (start: number) => {
    let end = start
    while (end < source.length && source[end] !== "`" && !source.startsWith("${", end)) {
      end += source[end] === "\\"
        ? 2
        : 1
    }
    const substitution = source[end] === "$"
    const whole = source[at] === "`" && !substitution
    add(
      whole ? "string" : "literal",
      whole ? unescape(source.slice(start, end)) : "",
      end + (substitution ? 2 : 1) - at
    )
    if (substitution) {
      // What follows is an expression: the punctuator makes a `/` there a regular expression.
      tokens.push({ kind: "punctuator", text: "${", line })
      open.push({ bracket: "${", afterControl: false })
    }
  }

  while (at < source.length) {
    const char = source.charAt(at)
    const next = source.charAt(at + 1)
    if (/\s/.test(char)) advance(1)
    else if (char === "/" && next === "/") advance((source.indexOf("\n", at) + 1 || source.length + 1) - 1 - at)
    else if (char === "/" && next === "*") advance((source.indexOf("*/", at + 2) + 2 || source.length + 1) - at)
    else if (char === "\"" || char === "'") {
      const match = matchAt(quoted, source, at)
      add("string", unescape(match?.[2] ?? ""), match?.[0].length ?? 1)
    } else if (char === "`") template(at + 1)
    else if (wordStart.test(char)) {
      const length = matchAt(word, source, at)?.[0].length ?? 1
      add("word", source.slice(at, at + length), Math.max(length, 1))
    } else if (/\d/.test(char) || (char === "." && /\d/.test(next))) {
      add("literal", "", matchAt(number, source, at)?.[0].length ?? 1)
    } else if (char === "/" && beginsRegExp()) add("literal", "", matchAt(regExp, source, at)?.[0].length ?? 1)
    else if (char === "}" && open.at(-1)?.bracket === "${") {
      open.pop()
      template(at + 1)
    } else {
      if (char === "(" || char === "{" || char === "[") {
        const before = tokens.at(-1)
        open.push({
          bracket: char,
          afterControl: before?.kind === "word" && /^(?:if|while|for|with)$/.test(before.text)
        })
      } else if (char === ")" || char === "}" || char === "]") closedControl = open.pop()?.afterControl ?? false
      add("punctuator", char, 1)
    }
  }
  return tokens
}

/** The specifier after the clause that begins at `from`: `{ a as b }`, `* as ns`, `name, { type c }`, then `from "x"`. */
const afterClause = (tokens: ReadonlyArray<Token>, from: number): Token | undefined => {
  for (let i = from; i < tokens.length; i++) {
    const token = tokens[i]
    if (token === undefined || token.kind === "literal") return undefined
    if (token.kind === "word" && token.text === "from" && tokens[i + 1]?.kind === "string") return tokens[i + 1]
    if (token.kind === "punctuator" && !"{},*".includes(token.text)) return undefined
  }
  return undefined
}

/**
 * All imports of `source`: `import` and `export ... from` declarations, dynamic imports, import types, `require(...)`
 * and `require.resolve(...)`.
 */
export const findImports = (source: string): Array<Import> => {
  const tokens = tokenize(source)
  const is = (index: number, text: string) => tokens[index]?.kind === "punctuator" && tokens[index]?.text === text
  const imports: Array<Import> = []
  const add = (token: Token | undefined) => {
    if (token !== undefined) imports.push({ specifier: token.text, line: token.line })
  }
  const addCall = (open: number, line: number) => {
    const argument = tokens[open + 1]
    const isLiteral = argument?.kind === "string" && (is(open + 2, ")") || is(open + 2, ","))
    if (isLiteral) add(argument)
    else imports.push({ specifier: undefined, line })
  }

  tokens.forEach((token, i) => {
    if (token.kind !== "word" || is(i - 1, ".")) return
    if (token.text === "import") {
      if (tokens[i + 1]?.kind === "string") add(tokens[i + 1])
      else if (is(i + 1, "(")) addCall(i + 1, token.line)
      else add(afterClause(tokens, i + 1))
    } else if (token.text === "export") {
      const start = tokens[i + 1]?.text === "type" ? i + 2 : i + 1
      if (is(start, "{") || is(start, "*")) add(afterClause(tokens, start))
    } else if (token.text === "require") {
      if (is(i + 1, "(")) addCall(i + 1, token.line)
      else if (is(i + 1, ".") && tokens[i + 2]?.text === "resolve" && is(i + 3, "(")) addCall(i + 3, token.line)
    }
  })
  return imports
}
