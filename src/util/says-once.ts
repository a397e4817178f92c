/** Suppresses repeated messages, for an operation that may start again in another way. */
export function saysOnce(say: (text: string) => void): (text: string) => void {
  const said = new Set<string>();
  return (text) => {
    if (!said.has(text)) say(text);
    said.add(text);
  };
}
